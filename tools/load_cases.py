"""What the clients of ``load_server.py`` ask, and how they tell whether an answer is the right one."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unipixel import stickers
from unipixel.draw import write_mp4
from unipixel.masks import iou_rles, mask_to_box

SAME = 0.99
"""IoU above which a mask counts as the expected one; batches may differ in the last bit."""
CLIP_FRAMES = 4


@dataclass
class Case:
    """One picture and one clip of it, with requests about them; bodies are JSON."""

    chat: bytes
    chat_stream: bytes
    large: bytes
    """The question about the picture at many times its size, another size for each case."""
    open: bytes
    open_clip: bytes
    box: bytes
    ask: bytes
    expected: dict[str, Any] = field(default_factory=dict)
    """Text and objects by the name of the answer, once they are known."""


def cases(count: int, model: str) -> list[Case]:
    """Cases that differ in picture and question."""
    return [_case(number, model) for number in range(count)]


def _case(number: int, model: str) -> Case:
    scene = stickers.generate_scene(stickers.EVAL_SEED, number)
    place = number % len(scene.objects)
    image = Image.fromarray(scene.frames[0])
    picture = _write_url(image)
    large = image.resize((1500 + 100 * (number % 16), 1200 + 50 * (number % 16)))
    question = f"Please segment the {scene.objects[place].thing.name} in this image."
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    chat = {"model": model, "max_tokens": 32, "messages": [{"role": "user", "content": parts}]}
    box = [float(v) for v in mask_to_box(scene.masks[place, 0]) or (0, 0, 10, 10)]
    prompts = {"prompts": [{"type": "box", "box": box}], "stream": True}
    return Case(
        chat=_json(chat),
        chat_stream=_json({**chat, "stream": True}),
        large=_json(chat).replace(picture.encode(), _write_url(large).encode()),
        open=_json({"url": picture}),
        open_clip=_json({"url": _clip(scene.frames[0]), "num_frames": CLIP_FRAMES}),
        box=_json(prompts),
        ask=_json({"text": question, "max_tokens": 32, "stream": True}),
    )


def _write_url(image: Image.Image) -> str:
    packed = io.BytesIO()
    image.save(packed, "PNG")
    return f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()}"


def _clip(picture: np.ndarray) -> str:
    """The picture as a clip that pans over it."""
    frames = np.stack([np.roll(picture, 4 * t, axis=1) for t in range(CLIP_FRAMES)])
    with tempfile.TemporaryDirectory() as folder:
        write_mp4(frames, Path(folder) / "clip.mp4")
        return f"data:video/mp4;base64,{base64.b64encode((Path(folder) / 'clip.mp4').read_bytes()).decode()}"


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def objects_of(content: bytes) -> tuple[str, list[Any]]:
    """Text, and id and masks of each object, of an answer as JSON or as events.

    Raises:
        ValueError: it is an error, or breaks off.
    """
    if not content.startswith((b"data:", b"event:", b":")):
        return _told(json.loads(content))
    text, last = "", None
    blocks = [block for block in content.decode().strip().split("\n\n") if not block.startswith(":")]
    for block in blocks[:-1]:
        value = json.loads(block.partition("data: ")[2])
        if "error" in value:
            raise ValueError(value["error"]["message"])
        if "choices" in value:
            text += value["choices"][0]["delta"].get("content") or ""
        last = value
    if blocks[-1] != "data: [DONE]" or last is None:
        raise ValueError("the stream broke off")
    return _told(last, text)


def _told(value: Any, text: str = "") -> tuple[str, list[Any]]:
    if "choices" in value:
        choice = value["choices"][0]
        message = choice.get("message") or choice["delta"]
        text, value = message.get("content") or text, message["unipixel"]
    return value.get("text", text), [[one["id"], one["rles"]] for one in value["objects"]]


def compare(given: tuple[str, list[Any]], expected: tuple[str, list[Any]]) -> str:
    """ "same", "inexact" or "wrong"."""
    if given == expected:
        return "same"
    if given[0] != expected[0] or [i for i, _ in given[1]] != [i for i, _ in expected[1]]:
        return "wrong"
    pairs = [(a, b) for (_, x), (_, y) in zip(given[1], expected[1], strict=True) for a, b in zip(x, y, strict=True)]
    alike = all(a is not None and b is not None and iou_rles(a, b) >= SAME for a, b in pairs if a != b)
    return "inexact" if alike else "wrong"
