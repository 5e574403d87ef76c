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
from collections.abc import Iterable, Sequence
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
from unipixel.checks import (
    check_flag,
    check_integer,
    check_list,
    check_mapping,
    check_number,
    check_text,
    join_lines,
    parse_json,
    shorten,
)
from unipixel.engine.answer import Clip
from unipixel.engine.memory import Anchor, KnownObject, ObjectMemory, set_spans
from unipixel.engine.objects import Workspace
from unipixel.errors import CheckpointError, MediaError, PromptError
from unipixel.formats.sessions import (
    FORMAT,
    RECORD,
    SMALL_BYTES,
    TENSORS,
    check_entries,
    compute_checksum,
    find_source,
    name_frame,
    read_clip,
)
from unipixel.masks import MaskTrack, Rle, decode_rle, encode_rle, parse_rle
from unipixel.media import MediaLike
from unipixel.model.unipixel import UniPixel
from unipixel.processing import Processor, TurnInputs
from unipixel.processing.prompts import MAX_POINTS, check_prompt
from unipixel.sample import Box, Mask, Point, Prompt

MAX_EMBEDDED_FRAMES = 64
"""Longest clip whose frames go into the file when nothing is said."""
MAX_CLICKS = 4096
"""Points of one object on one frame."""


def save_workspace(space: Workspace, path: str | Path, *, frames: bool | None = None) -> None:
    """Write a session; see `Session.save`.

    Raises:
        MediaError: the frames shall not go into the file, and their source is no file that it could name.
    """
    path, clip = Path(path), space.clip
    source = find_source(clip.source)
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
            "checksum": compute_checksum(clip.media),
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
    # copies, because anchors of one object share their queries
    packed_tensors = save_tensors({name: t.cpu().contiguous().clone() for name, t in tensors.items()})
    with zipfile.ZipFile(path, "w") as file:
        for name, data in ((RECORD, json.dumps(record, allow_nan=False).encode()), (TENSORS, packed_tensors)):
            file.writestr(name, data, zipfile.ZIP_DEFLATED if len(data) <= SMALL_BYTES // 2 else zipfile.ZIP_STORED)
        for t, frame in enumerate(frames):
            packed = io.BytesIO()
            Image.fromarray(frame).save(packed, format="PNG", compress_level=3)
            file.writestr(zipfile.ZipInfo(name_frame(t)), packed.getvalue())


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
            names = check_entries(file, path)
            record = check_mapping(parse_json(file.read(RECORD)), "the record", ("format", "model"))
            if record["format"] != FORMAT or isinstance(record["format"], bool):
                raise MediaError(
                    f"{path} has the session format {shorten(record['format'])}; this version reads {FORMAT}"
                )
            if record["model"] != compute_fingerprint(model):
                raise CheckpointError(f"{path} was saved with another model; load the one it was saved with")
            check_mapping(
                record, "the record", ("clip", "num_frames", "feature_frames", "next_id", "objects", "dialogue")
            )
            tensors = load_tensors(file.read(TENSORS))
            clip = _read_clip(record["clip"], file, names, media)
        num_frames = check_integer(record["num_frames"], "num_frames", 1, 1 << 31)
        feature_frames = check_integer(record["feature_frames"], "feature_frames", 1)
        space = Workspace(model, processor, clip, num_frames, feature_frames)
        objects = [
            _read_object(one, f"objects[{place}]", tensors, space)
            for place, one in enumerate(check_list(record["objects"], "objects"))
        ]
        memory = ObjectMemory(objects, _check_ids([one.id for one in objects], record["next_id"]))
        transcript, unread = _read_transcript(record["dialogue"], tensors, space)
        if tensors:
            raise ValueError(f"it holds the tensor {shorten(next(iter(tensors)))}, which belongs to nothing")
    except OSError as error:
        raise MediaError(f"{path} cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, zlib.error, SafetensorError, EOFError, RuntimeError, NotImplementedError) as error:
        raise MediaError(f"{path} is not a session file, or it is damaged ({join_lines(error)})") from error
    except (KeyError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, PromptError) as error:
        raise MediaError(
            f"{path} is not a session file: a field is missing or malformed ({join_lines(error)})"
        ) from error
    space.memory = memory
    space.dialogue.restore(transcript, unread)
    return space


def _check_ids(ids: Sequence[int], next_id: Any) -> int:
    if len(set(ids)) < len(ids):
        raise ValueError("two objects have one id")
    return check_integer(next_id, "next_id", max(ids, default=0) + 1)


def compute_fingerprint(model: UniPixel) -> str:
    """What tells one model from another: a hash of its config and of two small weights.

    Weights are hashed as bfloat16, so that a model is the same in any precision.
    """
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    weights = dict(model.named_parameters())
    for name in ("seg_head.1.bias", "language.norm.weight"):
        digest.update(weights[name].detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _read_clip(value: Any, file: zipfile.ZipFile, names: set[str], media: MediaLike | None) -> Clip:
    opened, source, indices, fps = read_clip(value, file, names, media)
    if opened is None:
        raise MediaError(f"the frames of {source} are not there")
    return Clip(opened, source, indices, fps)


def _write_prompt(prompt: Prompt) -> dict[str, Any]:
    where = {"frame": int(prompt.frame), "object_id": None if prompt.object_id is None else int(prompt.object_id)}
    if isinstance(prompt, Point):
        return {"point": [float(prompt.x), float(prompt.y)], "positive": bool(prompt.positive), **where}
    if isinstance(prompt, Box):
        return {"box": [float(v) for v in (prompt.x1, prompt.y1, prompt.x2, prompt.y2)], **where}
    return {"mask": encode_rle(prompt.mask), **where}


def _read_prompt(value: Any, name: str, object_id: int, space: Workspace) -> Prompt:
    record = check_mapping(value, name, ("frame", "object_id"))
    if record["object_id"] not in (None, object_id) or isinstance(record["object_id"], bool | float):
        raise ValueError(f"{name} is about object {shorten(record['object_id'])}, and stands with object {object_id}")
    size_hw, frame = space.clip.media.size_hw, check_integer(record["frame"], f"{name}.frame")
    prompt: Prompt
    if "point" in record:
        x, y = (check_number(v, f"{name}.point") for v in check_list(record["point"], f"{name}.point", 2))
        positive = check_flag(record.get("positive"), f"{name}.positive")
        prompt = Point(x, y, frame, positive, record["object_id"])
    elif "box" in record:
        x1, y1, x2, y2 = (check_number(v, f"{name}.box") for v in check_list(record["box"], f"{name}.box", 4))
        prompt = Box(x1, y1, x2, y2, frame, record["object_id"])
    else:
        prompt = Mask(decode_rle(_read_mask(record.get("mask"), f"{name}.mask", size_hw)), frame, record["object_id"])
    check_prompt(prompt, size_hw, space.num_frames)
    return prompt


def _read_mask(value: Any, name: str, size_hw: tuple[int, int]) -> Rle:
    rle = parse_rle(value)
    if tuple(rle["size"]) != tuple(size_hw):
        raise ValueError(f"{name} is {rle['size'][0]} x {rle['size'][1]}; the clip is {size_hw[0]} x {size_hw[1]}")
    return rle


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


def _take_tensor(
    tensors: dict[str, Tensor], name: str, dtypes: Sequence[torch.dtype], shape: tuple[int | range, ...]
) -> Tensor:
    """A tensor out of the table, which has none of that name afterwards.

    Args:
        shape: its sides, or the range that a side must be in.

    Raises:
        ValueError: it is not there, of another type or shape, or holds a number that is not finite.
    """
    if name not in tensors:
        raise ValueError(f"the tensor {name} is missing")
    tensor = tensors.pop(name)
    fits = tensor.ndim == len(shape) and all(
        n in side if isinstance(side, range) else n == side for n, side in zip(tensor.shape, shape, strict=True)
    )
    if tensor.dtype not in dtypes or not fits:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"the tensor {name} is {kind} {list(tensor.shape)}, which is not what it should be")
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise ValueError(f"the tensor {name} holds numbers that are not finite")
    return tensor


def _take_clicks(
    tensors: dict[str, Tensor], names: tuple[str, str], most: int, space: Workspace
) -> tuple[Tensor, Tensor]:
    """Coordinates and labels of 1 to ``most`` points, as SAM takes them."""
    coords = _take_tensor(tensors, names[0], (torch.float32,), (range(1, most + 1), 2))
    labels = _take_tensor(tensors, names[1], (torch.int64,), (len(coords),))
    if coords.min() < 0 or coords.max() > space.visual.settings.sam_size or labels.min() < 0 or labels.max() > 3:
        raise ValueError(f"the tensors {names[0]} and {names[1]} are not points of a frame with their labels")
    return coords, labels


def _read_object(value: Any, name: str, tensors: dict[str, Tensor], space: Workspace) -> KnownObject:
    record = check_mapping(value, name, ("id", "label", "track", "frame_scores", "prompts", "anchors"))
    object_id, track = check_integer(record["id"], f"{name}.id", 1), MaskTrack.from_json(record["track"])
    if track.size_hw != tuple(space.clip.media.size_hw):
        raise ValueError(f"the masks of object {object_id} have another size than the clip")
    if track.num_frames != space.num_frames:
        raise ValueError(f"object {object_id} has {track.num_frames} masks, the clip {space.num_frames} frames")
    scores = check_list(record["frame_scores"], f"{name}.frame_scores", track.num_frames)
    anchors = [
        _read_anchor(one, f"objects/{object_id}/{number}", tensors, space)
        for number, one in enumerate(check_list(record["anchors"], f"{name}.anchors"))
    ]
    if len({anchor.frame for anchor in anchors}) < len(anchors):
        raise ValueError(f"object {object_id} has two anchors on one frame")
    prompts = [
        _read_prompt(one, f"{name}.prompts[{place}]", object_id, space)
        for place, one in enumerate(check_list(record["prompts"], f"{name}.prompts"))
    ]
    for frame in {int(prompt.frame) for prompt in prompts}:
        here = [prompt for prompt in prompts if prompt.frame == frame]
        after = here[max((n for n, prompt in enumerate(here) if isinstance(prompt, Mask)), default=0) :]
        if sum(isinstance(prompt, Box) for prompt in after) > 1:
            raise ValueError(f"object {object_id} has two boxes on frame {frame}")
    return KnownObject(
        id=object_id,
        label=check_text(record["label"], f"{name}.label"),
        track=track,
        frame_scores=tuple(check_number(s, f"a score of object {object_id}", 0.0, 1.0) for s in scores),
        prompts=tuple(prompts),
        anchors=set_spans(anchors, track.num_frames),
    )


def _read_anchor(value: Any, name: str, tensors: dict[str, Tensor], space: Workspace) -> Anchor:
    record, model = check_mapping(value, name, ("frame", "mask")), space.model
    frame, mask = check_integer(record["frame"], f"the frame of {name}", 0, space.num_frames - 1), record["mask"]
    queries = clicks = None
    if f"{name}/queries" in tensors:
        shape = (model.config.hidden_tokens, model.config.sam.hidden_size)
        queries = _take_tensor(tensors, f"{name}/queries", _QUERY_TYPES, shape).to(model.device, model.dtype)
        if not queries.isfinite().all():
            raise ValueError(f"the tensor {name}/queries is not finite in the model's type")
    if f"{name}/coords" in tensors:
        coords, labels = _take_clicks(tensors, (f"{name}/coords", f"{name}/labels"), MAX_CLICKS, space)
        clicks = coords.to(model.device), labels.to(model.device)
    if queries is None and clicks is None and mask is None:
        raise ValueError(f"{name} says nothing about the object")
    shape_hw = space.clip.media.size_hw
    return Anchor(frame, queries, clicks, None if mask is None else _read_mask(mask, f"the mask of {name}", shape_hw))


_QUERY_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def _write_transcript(transcript: TurnInputs, unread: list[int], tensors: dict[str, Tensor]) -> dict[str, Any]:
    for number, (coords, labels) in enumerate(zip(transcript.point_coords, transcript.point_labels, strict=True)):
        tensors[f"dialogue/coords/{number}"], tensors[f"dialogue/labels/{number}"] = coords, labels
    regions = transcript.region_masks
    if regions is not None:
        tensors["dialogue/regions/0"] = regions.to(torch.uint8) if regions.dtype == torch.bool else regions
    return {
        "ids": transcript.input_ids.tolist(),
        "unread": unread,
        "frames": transcript.point_frames.tolist(),
        "num_regions": 0 if regions is None else 1,
    }


def _read_transcript(value: Any, tensors: dict[str, Tensor], space: Workspace) -> tuple[TurnInputs, list[int]]:
    record = check_mapping(value, "dialogue", ("ids", "unread", "frames", "num_regions"))
    config, visual = space.model.config, space.visual
    last = config.language.vocab_size - 1
    ids = [check_integer(i, "a token id", -1 - last, last) for i in check_list(record["ids"], "dialogue.ids")]
    unread = [check_integer(i, "a token id", 0, last) for i in check_list(record["unread"], "dialogue.unread")]
    length = len(space.processor.chat.encode_opening(visual.num_tokens)) + len(ids) + len(unread)
    if length > config.language.max_position_embeddings:
        raise ValueError(f"the conversation is {length} tokens long")
    visuals = {config.video_token_id, config.image_token_id}
    written = {-1 - i for i in ids if i < 0}
    if visuals & set(ids) or not written <= visuals | {config.ref_token_id, config.mem_token_id}:
        raise ValueError("a token stands in the conversation that cannot be there")
    shown = len(visual.shown_frames) - 1
    frames = [check_integer(f, "the frame of a prompt", 0, shown) for f in check_list(record["frames"], "frames")]
    if ids.count(config.ref_token_id) != len(frames):
        raise ValueError(f"{len(frames)} prompts do not fit the conversation")
    clicks = [
        _take_clicks(tensors, (f"dialogue/coords/{number}", f"dialogue/labels/{number}"), MAX_POINTS, space)
        for number in range(len(frames))
    ]
    (steps, rows, columns), merge = visual.grid, visual.settings.merge_size
    shape = (steps, range(1, len(ids) + 1), rows // merge, columns // merge)
    kinds = (torch.uint8, torch.bool) + ((torch.float32,) if visual.settings.region_rule == "covered" else ())
    # files of other versions hold a tensor for each question with regions
    regions = [
        _take_tensor(tensors, f"dialogue/regions/{number}", kinds, shape)
        for number in range(check_integer(record["num_regions"], "num_regions", 0, len(ids)))
    ]
    if any(one.min() < 0 or one.max() > 1 or not one.flatten(2).any(-1).any(0).all() for one in regions):
        raise ValueError("a region of the conversation is empty, or no mask")
    if ids.count(config.mem_token_id) != sum(int(one.flatten(2).any(-1).sum()) for one in regions):
        raise ValueError("the regions do not fit the conversation")
    transcript = TurnInputs(
        torch.tensor(ids, dtype=torch.long),
        [coords for coords, _ in clicks],
        [labels for _, labels in clicks],
        torch.tensor(frames, dtype=torch.long),
        torch.cat([one if one.is_floating_point() else one.bool() for one in regions], 1) if regions else None,
    )
    return transcript, unread
