"""A session as a file: a zip of ``session.json``, ``tensors.safetensors`` and, for short clips, the frames as PNG.

The KV cache is not stored. It is made again from the tokens, prompts and regions that it came from, which takes one
prefill and fits any device.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from unipixel import __version__
from unipixel.atomic import replace_file
from unipixel.engine.answer import Clip
from unipixel.engine.memory import Anchor, KnownObject, ObjectMemory, set_spans
from unipixel.engine.objects import Workspace
from unipixel.errors import CheckpointError, MediaError
from unipixel.masks import MaskTrack, decode_rle, encode_rle, parse_rle
from unipixel.media import Media, MediaLike, open_media
from unipixel.model.unipixel import UniPixel
from unipixel.processing import Processor, TurnInputs
from unipixel.sample import Box, Mask, Point, Prompt

FORMAT = 1
RECORD, TENSORS = "session.json", "tensors.safetensors"
MAX_EMBEDDED_FRAMES = 64
"""Longest clip whose frames go into the file when nothing is said."""
MAX_BYTES = 4 << 30
"""Largest file that is read, unpacked."""


def save_workspace(space: Workspace, path: str | Path, *, frames: bool | None = None) -> None:
    """Write a session; see `Session.save`.

    Raises:
        MediaError: the frames shall not go into the file, and their source is no file that it could name.
    """
    path, clip = Path(path), space.clip
    source = _find_source(clip.source)
    if frames is None:
        frames = source is None or len(clip.frame_indices) <= MAX_EMBEDDED_FRAMES
    if not frames and source is None:
        raise MediaError(f"the frames come from {clip.source}, which is no file or folder; save them with frames=True")
    tensors: dict[str, Tensor] = {}
    record = {
        "format": FORMAT,
        "version": __version__,
        "model": compute_fingerprint(space.model),
        "clip": {
            "source": clip.source,
            "path": None if frames else str(source),
            "size_hw": list(clip.media.size_hw),
            "fps": clip.fps,
            "frame_indices": list(clip.frame_indices),
            "checksum": _compute_checksum(clip.media),
        },
        "num_frames": space.visual.settings.max_frames,
        "feature_frames": space.features.capacity,
        "next_id": space.memory.next_id,
        "objects": [_write_object(one, tensors) for one in space.memory.values()],
        "dialogue": _write_transcript(*space.dialogue.transcript, tensors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as draft:
        _write_file(draft, record, tensors, clip.media if frames else ())


def _write_file(path: Path, record: dict[str, Any], tensors: dict[str, Tensor], frames: Iterable[np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(RECORD, json.dumps(record))
        # copies, because anchors of one object share their queries
        file.writestr(TENSORS, save_tensors({name: t.cpu().contiguous().clone() for name, t in tensors.items()}))
        for t, frame in enumerate(frames):
            packed = io.BytesIO()
            Image.fromarray(frame).save(packed, format="PNG", compress_level=3)
            file.writestr(zipfile.ZipInfo(_name_frame(t)), packed.getvalue())


def load_workspace(
    path: str | Path, model: UniPixel, processor: Processor, media: MediaLike | None = None
) -> Workspace:
    """Read a session; see `Engine.open_session`.

    Raises:
        MediaError: the file is no session, or its media are gone or changed.
        CheckpointError: it was saved with another model.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(info.file_size for info in file.infolist())
            if size > MAX_BYTES:
                raise MediaError(f"{path} unpacks to {size} bytes, more than the {MAX_BYTES} allowed for a session")
            record = json.loads(file.read(RECORD))
            tensors = load_tensors(file.read(TENSORS))
            if record["format"] != FORMAT:
                raise MediaError(f"{path} has the session format {record['format']!r}; this version reads {FORMAT}")
            if record["model"] != compute_fingerprint(model):
                raise CheckpointError(f"{path} was saved with another model; load the one it was saved with")
            clip = _read_clip(record["clip"], file, media)
        num_frames, feature_frames = int(record["num_frames"]), int(record["feature_frames"])
        if num_frames < 1 or feature_frames < 1:
            raise ValueError(f"num_frames and feature_frames are {num_frames} and {feature_frames}")
        objects = [_read_object(one, tensors, model, clip) for one in record["objects"]]
        memory = ObjectMemory(objects, int(record["next_id"]))
        transcript, unread = _read_transcript(record["dialogue"], tensors, model)
    except OSError as error:
        raise MediaError(f"{path} cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, zlib.error, SafetensorError, EOFError, RuntimeError, NotImplementedError) as error:
        raise MediaError(f"{path} is not a session file, or it is damaged ({error})") from error
    except (KeyError, TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
        raise MediaError(f"{path} is not a session file: a field is missing or malformed ({error})") from error
    space = Workspace(model, processor, clip, num_frames, feature_frames, memory)
    space.dialogue.restore(transcript, unread)
    return space


def compute_fingerprint(model: UniPixel) -> str:
    """What tells one model from another: a hash of its config and of two small weights.

    Weights are hashed as bfloat16, so that a model is the same in any precision.
    """
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    weights = dict(model.named_parameters())
    for name in ("seg_head.1.bias", "language.norm.weight"):
        digest.update(weights[name].detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _find_source(source: str) -> Path | None:
    try:
        path = Path(source)
        return path.resolve() if path.exists() else None
    except (OSError, ValueError):
        return None


def _name_frame(t: int) -> str:
    return f"frames/{t:06d}.png"


def _compute_checksum(media: Media) -> int:
    """Of the first and the last frame: enough to notice that a file was replaced."""
    return zlib.crc32(media.frames([0, media.num_frames - 1]).tobytes())


def _read_clip(record: dict[str, Any], file: zipfile.ZipFile, media: MediaLike | None) -> Clip:
    indices = tuple(int(i) for i in record["frame_indices"])
    if not indices:
        raise ValueError("frame_indices is empty")
    if media is None and record["path"] is None:
        pictures = [Image.open(io.BytesIO(file.read(_name_frame(t))), formats=["PNG"]) for t in range(len(indices))]
        opened = open_media(pictures)
    else:
        whole = open_media(record["path"] if media is None else media)
        if max(indices) >= whole.num_frames:
            raise MediaError(f"{whole.source} has {whole.num_frames} frames, but the session uses frame {max(indices)}")
        opened = whole.select(indices)
    if list(opened.size_hw) != record["size_hw"] or _compute_checksum(opened) != record["checksum"]:
        raise MediaError(f"{opened.source} is not what the session was about: its frames have changed")
    fps = record["fps"]
    return Clip(opened, str(record["source"]), indices, None if fps is None else float(fps))


def _write_prompt(prompt: Prompt) -> dict[str, Any]:
    where = {"frame": int(prompt.frame), "object_id": None if prompt.object_id is None else int(prompt.object_id)}
    if isinstance(prompt, Point):
        return {"point": [float(prompt.x), float(prompt.y)], "positive": bool(prompt.positive), **where}
    if isinstance(prompt, Box):
        return {"box": [float(v) for v in (prompt.x1, prompt.y1, prompt.x2, prompt.y2)], **where}
    return {"mask": encode_rle(prompt.mask), **where}


def _read_prompt(record: dict[str, Any]) -> Prompt:
    frame, object_id = int(record["frame"]), record["object_id"]
    if "point" in record:
        x, y = record["point"]
        return Point(float(x), float(y), frame, bool(record["positive"]), object_id)
    if "box" in record:
        x1, y1, x2, y2 = (float(v) for v in record["box"])
        return Box(x1, y1, x2, y2, frame, object_id)
    return Mask(decode_rle(record["mask"]), frame, object_id)


def _write_object(known: KnownObject, tensors: dict[str, Tensor]) -> dict[str, Any]:
    anchors = []
    for number, anchor in enumerate(known.anchors):
        name = f"objects/{known.id}/{number}"
        if anchor.queries is not None:
            tensors[f"{name}/queries"] = anchor.queries
        if anchor.clicks is not None:
            tensors[f"{name}/coords"], tensors[f"{name}/labels"] = anchor.clicks
        anchors.append({"frame": anchor.frame, "mask": anchor.mask})
    return {
        "id": known.id,
        "label": known.label,
        "track": known.track.to_json(),
        "frame_scores": list(known.frame_scores),
        "prompts": [_write_prompt(prompt) for prompt in known.prompts],
        "anchors": anchors,
    }


def _read_object(record: dict[str, Any], tensors: dict[str, Tensor], model: UniPixel, clip: Clip) -> KnownObject:
    object_id, track = int(record["id"]), MaskTrack.from_json(record["track"])
    scores = tuple(float(s) for s in record["frame_scores"])
    if track.num_frames != len(clip.frame_indices) or len(scores) != track.num_frames:
        raise ValueError(f"object {object_id} has {track.num_frames} masks, the clip {len(clip.frame_indices)} frames")
    if track.size_hw != tuple(clip.media.size_hw):
        raise ValueError(f"the masks of object {object_id} have another size than the clip")
    anchors = []
    for number, anchor in enumerate(record["anchors"]):
        name = f"objects/{object_id}/{number}"
        queries, coords = tensors.get(f"{name}/queries"), tensors.get(f"{name}/coords")
        if queries is not None and queries.shape != (model.config.hidden_tokens, model.config.sam.hidden_size):
            raise ValueError(f"the queries of object {object_id} have the shape {tuple(queries.shape)}")
        frame, mask = int(anchor["frame"]), anchor["mask"]
        if not 0 <= frame < track.num_frames or (coords is not None and coords.shape[1:] != (2,)):
            raise ValueError(f"anchor {number} of object {object_id}")
        clicks = None if coords is None else (coords.to(model.device), tensors[f"{name}/labels"].to(model.device))
        queries = None if queries is None else queries.to(model.device, model.dtype)
        anchors.append(Anchor(frame, queries, clicks, None if mask is None else parse_rle(mask)))
    return KnownObject(
        id=object_id,
        label=str(record["label"]),
        track=track,
        frame_scores=scores,
        prompts=tuple(_read_prompt(one) for one in record["prompts"]),
        anchors=set_spans(anchors, track.num_frames),
    )


def _write_transcript(transcript: TurnInputs, unread: list[int], tensors: dict[str, Tensor]) -> dict[str, Any]:
    for number, (coords, labels) in enumerate(zip(transcript.point_coords, transcript.point_labels, strict=True)):
        tensors[f"dialogue/coords/{number}"], tensors[f"dialogue/labels/{number}"] = coords, labels
    regions = transcript.region_masks
    if regions is not None:
        tensors["dialogue/regions/0"] = regions.to(torch.uint8)
    return {
        "ids": transcript.input_ids.tolist(),
        "unread": unread,
        "frames": transcript.point_frames.tolist(),
        "num_regions": 0 if regions is None else 1,
    }


def _read_transcript(
    record: dict[str, Any], tensors: dict[str, Tensor], model: UniPixel
) -> tuple[TurnInputs, list[int]]:
    ids, unread = [int(i) for i in record["ids"]], [int(i) for i in record["unread"]]
    frames = [int(f) for f in record["frames"]]
    size = model.config.language.vocab_size
    if any(not -size <= i < size for i in ids) or any(not 0 <= i < size for i in unread):
        raise ValueError("a token id is outside of the vocabulary")
    if ids.count(model.config.ref_token_id) != len(frames):
        raise ValueError(f"{len(frames)} prompts do not fit the conversation")
    # files of other versions hold a tensor for each question with regions
    regions = [tensors[f"dialogue/regions/{number}"].bool() for number in range(int(record["num_regions"]))]
    transcript = TurnInputs(
        torch.tensor(ids, dtype=torch.long),
        [tensors[f"dialogue/coords/{number}"] for number in range(len(frames))],
        [tensors[f"dialogue/labels/{number}"] for number in range(len(frames))],
        torch.tensor(frames, dtype=torch.long),
        torch.cat(regions, 1) if regions else None,
    )
    return transcript, unread
