"""What clients send that is unusual but understood, and sentences that name what is wrong."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import EXAMPLES, Live

from unipixel.engine.answer import Answer, Clip
from unipixel.engine.memory import KnownObject
from unipixel.formats.annotations import Losses
from unipixel.formats.yolo import build_yolo_files, quote_yaml
from unipixel.masks import MaskTrack
from unipixel.media import Media
from unipixel.serve.label_studio.config import LabelConfig

CHAT = "/v1/chat/completions"
TEXT = {"type": "text", "text": "What is this?"}
PACKED = base64.b64encode((EXAMPLES / "picture.png").read_bytes()).decode()


def chat(*content: Any) -> dict[str, Any]:
    return {"model": "nano", "max_tokens": 1, "messages": [{"role": "user", "content": list(content)}]}


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{PACKED}",
        f"data:image/png; base64, {PACKED}",
        "data:image/png;base64," + "\r\n".join(PACKED[at : at + 76] for at in range(0, len(PACKED), 76)),
        f"\n data:image/png;BASE64,{PACKED.rstrip('=')}\n",
    ],
)
def test_data_urls_as_the_web_has_them_are_taken(quick: Live, url: str) -> None:
    answer = quick.http.post(CHAT, json=chat({"type": "image_url", "image_url": {"url": url}}, TEXT))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            [TEXT, {"type": "input_audio", "input_audio": {}}],
            "content.1.type: Input should be 'text', 'image_url' or 'video_url', not 'input_audio'",
        ),
        ([{"type": "file"}], "'image_url' or 'video_url', not 'file'"),
        ([TEXT, {"typ": "text"}], "messages.0.content.1.type is missing"),
        ([{"type": "text"}], "content.0: a part of type 'text' must have the field 'text'"),
        ([{"type": "video_url", "text": "x"}], "content.0: a part of type 'video_url' must have the field 'video_url'"),
        ([{"type": "image_url", "image_url": {"uri": "x"}}], "content.0.image_url.url is missing"),
        (["hello"], "content.0: "),
    ],
)
def test_parts_that_are_not_known_are_named(quick: Live, content: list[Any], words: str) -> None:
    answer = quick.http.post(CHAT, json=chat(*content))
    assert answer.status_code == 400
    told = answer.json()["error"]
    assert words in told["message"] and "Part" not in told["message"] and told["param"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "tool", "content": "x"}, "messages.0.role: Input should be 'system', 'developer', 'user' or"),
        ({"role": "user", "content": None}, "messages.0: a message of the role 'user' must have content"),
        ({"role": "system"}, "messages.0: a message of the role 'system' must have content"),
        (
            {"role": "assistant", "content": [{"type": "image_url", "image_url": "x"}]},
            "messages.0: a message of the role 'assistant' must be text only",
        ),
    ],
)
def test_messages_that_are_none_are_named(quick: Live, message: dict[str, Any], words: str) -> None:
    error = quick.post(CHAT, {"model": "nano", "messages": [message]}, 400)["error"]
    assert words in error["message"] and error["param"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("POST", "/v1/embeddings", 404, None),
        ("PUT", "/nowhere", 404, None),
        ("DELETE", "/v1/nothing/at/all", 404, None),
        ("GET", "/v1/nothing", 404, None),
        ("POST", "/health", 405, "GET"),
        ("PUT", CHAT, 405, "POST"),
        ("GET", CHAT, 405, "POST"),
        ("POST", "/", 405, None),
        ("GET", "/", 200, None),
    ],
)
def test_unknown_addresses_are_not_found_and_known_ones_say_their_methods(
    quick: Live, method: str, path: str, status: int, allowed: str | None
) -> None:
    answer = quick.http.request(method, path)
    assert answer.status_code == status, answer.text
    if allowed is not None:
        assert allowed in answer.headers["allow"]


def still(source: str, *labels: str) -> Answer:
    mask = np.zeros((1, 20, 30), dtype=bool)
    mask[0, 4:9, 5:15] = True
    objects = [
        KnownObject(id=n, label=label, track=MaskTrack.from_masks(mask), frame_scores=(0.9,))
        for n, label in enumerate(labels, 1)
    ]
    media = Media.from_array(np.zeros((20, 30, 3), dtype=np.uint8))
    media.source = source
    return Answer(text="", raw_text="", objects=tuple(objects), clip=Clip.from_media(media))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("truck.jpg", "truck"),
        ("a.b.jpeg", "a.b"),
        ("图 片.png", "图 片"),
        ("folder\\photo.png", "folder/photo"),
        ("https://host/x/y.png?z=1", "y"),
        ("noending", "noending"),
        (".jpg", "jpg"),
        ("..", "picture"),
    ],
)
def test_labels_of_a_still_are_named_as_it_is(source: str, name: str) -> None:
    files = dict(build_yolo_files([still(source, "dog").to_annotations()], Losses()))
    (path,) = [path for path in files if path.startswith("labels/")]
    assert path == f"labels/{name}.txt"


@pytest.mark.parametrize(
    "label", ["🐕", "狗", 'say "x"', "back\\slash", "a: b # c", "\x07bell", "\ud83d", "\u2028", "tab\t", "no"]
)
def test_class_names_are_valid_yaml(label: str) -> None:
    yaml = pytest.importorskip("yaml")
    text = dict(build_yolo_files([still("a.png", label, "cat").to_annotations()], Losses()))["data.yaml"]
    names = yaml.safe_load(text)["names"]
    assert names == {0: label if label.isprintable() or label in "\x07bell\u2028tab\t" else "?", 1: "cat"}
    assert "\\ud83d" not in text and quote_yaml("é") == '"é"'


TWO = """<View><Image name="{a}" value="${a}"/><Image name="{b}" value="${b}"/>
<BrushLabels name="brush" toName="{aim}"><Label value="dog"/></BrushLabels></View>"""


@pytest.mark.parametrize("aim", ["before", "after"])
def test_of_two_pictures_the_one_that_labels_draw_on_is_taken(aim: str) -> None:
    config = LabelConfig(TWO.format(a="before", b="after", aim=aim))
    assert (config.object_name, config.data_key) == (aim, aim)


def test_a_video_beside_a_picture_is_taken_if_labels_draw_on_it() -> None:
    xml = """<View><Image name="poster" value="$poster"/><Video name="v" value="$video"/>
    <VideoRectangle name="b" toName="v"/><Labels name="l" toName="v"><Label value="dog"/></Labels></View>"""
    config = LabelConfig(xml)
    assert (config.medium, config.data_key) == ("video", "video")
    choices = """<View><Image name="a" value="$a"/><Choices name="c" toName="a"><Choice value="x"/></Choices>
    <Image name="b" value="$b"/><RectangleLabels name="r" toName="b"><Label value="dog"/></RectangleLabels></View>"""
    assert LabelConfig(choices).data_key == "b"


def test_json_can_be_read_back_whatever_the_names(tmp_path: Path) -> None:
    assert json.loads(json.dumps(still("图 片.png", "🐕").to_coco()))["categories"][0]["name"] == "🐕"
