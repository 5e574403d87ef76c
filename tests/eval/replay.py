"""The original's evaluation replayed: our readers, protocols, engine and processor around a recorder.

The recorder stands where the model would. It notes what it is asked, and answers with the reply and the masks that were
made up for the original, so that everything before and behind the model is compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unipixel.data import Record
from unipixel.engine.answer import MaskPiece
from unipixel.engine.engine import Engine
from unipixel.engine.generation import Reply
from unipixel.eval.predictions import PredictionLine
from unipixel.eval.predictors import EnginePredictor
from unipixel.eval.protocols import BenchmarkProtocol, Prediction, Question, Unit
from unipixel.eval.runner import predict_units
from unipixel.masks import MaskTrack, encode_rle
from unipixel.media import Media
from unipixel.model.config import RELEASED_PIXEL
from unipixel.processing import ImageSettings, Processor, TurnInputs, VisualInput
from unipixel.processing.images import prepare_sam_frames
from unipixel.sample import Query

PIXEL_SUM = 0.1
"""How far sums of pixel values may be apart."""
Sample = Mapping[str, Any]
"""A sample as the JSON has it."""
MakeMasks = Callable[[int, int, tuple[int, int]], np.ndarray | None]
"""(place of an object in a reply, frames, size) -> bool (T, H, W), or None where nothing is found."""


@dataclass(frozen=True, eq=False)
class Call:
    """One question for the model."""

    ask: Reply
    inputs: TurnInputs
    visual: VisualInput
    ids: list[int]
    """With the words that the reply was given to begin with."""


@dataclass
class Recorder:
    """What is asked, and what is to be answered."""

    make_masks: MakeMasks
    replies: list[str | None] = field(default_factory=list)
    """To be written, in order; None is an exception."""
    calls: list[Call] = field(default_factory=list)

    def predictor(self, processor: Processor, patch: pytest.MonkeyPatch) -> EnginePredictor:
        """A predictor whose model is the recorder."""
        recorder, ids = self, processor.chat.ids
        config = SimpleNamespace(seg_token_id=ids["<|seg|>"], eos_token_ids=(ids["<|im_end|>"],), pixel=RELEASED_PIXEL)
        config.hidden_tokens, config.sam = 2, SimpleNamespace(hidden_size=4)
        model = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, segmenter=None, config=config)
        model.compute_seg_tokens = lambda states: states
        model.eval = lambda: model

        class Dialogue:
            def __init__(self, model: Any, processor: Processor, visual: VisualInput, clock: Any) -> None:
                self._processor, self._visual = processor, visual

            def start(self, reply: Reply) -> None:
                recorder.start(reply, self._processor, self._visual)

            def restore(self, *_: Any) -> None:
                pass

            def release(self) -> None:
                pass

        patch.setattr("unipixel.engine.objects.Dialogue", Dialogue)
        patch.setattr("unipixel.engine.objects.propagate", self.propagate)
        return EnginePredictor(Engine(model, processor))

    def start(self, ask: Reply, processor: Processor, visual: VisualInput) -> None:
        """Note a question and answer it."""
        inputs = processor.build_first_turn(ask.turn, visual, ask.objects)
        given = processor.chat.encode(ask.answer or ask.prefix) if ask.answer or ask.prefix else []
        self.calls.append(Call(ask, inputs, visual, [*inputs.input_ids.tolist(), *given]))
        text = ask.answer or self.replies.pop(0)
        if text is None:
            raise RuntimeError("made up")
        said = processor.chat.encode(text)
        states = torch.zeros(said.count(processor.chat.ids["<|seg|>"]), 2, 4)
        if ask.answer:
            ask.given_states = states
        else:
            ask.ids, ask.seg_states = said, list(states)

    def propagate(
        self,
        segmenter: Any,
        features: Any,
        size_hw: tuple[int, int],
        num_frames: int,
        anchors: Mapping[int, Sequence[Any]],
        **_: Any,
    ) -> Iterator[MaskPiece]:
        """The made-up masks of the objects of a reply."""
        ids = [i for i, own in anchors.items() if own]
        made = {i: self.make_masks(place, num_frames, size_hw) for place, i in enumerate(ids)}
        for t in range(num_frames):
            rles = {i: None if m is None or not m[t].any() else encode_rle(m[t]) for i, m in made.items()}
            yield MaskPiece(t, rles, dict.fromkeys(ids, 1.0))


def middle(place: int, frames: int, size_hw: tuple[int, int]) -> np.ndarray:
    """The mask of the first object of a reply is the middle of the frame, that of all others the whole frame."""
    height, width = size_hw
    masks = np.zeros((frames, height, width), dtype=bool)
    if place:
        masks[:] = True
    masks[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    return masks


def pieces(place: int, frames: int, size_hw: tuple[int, int]) -> np.ndarray | None:
    """PixelQA: a part of the frame per object, the second is not found."""
    height, width = size_hw
    if place == 1:
        return None
    masks = np.zeros((frames, height, width), dtype=bool)
    rows = slice(height // 4, height // 2)
    masks[: frames - 2, rows, width // 8 * (place + 1) : width // 8 * (place + 3)] = True
    return masks


@dataclass(frozen=True, eq=False)
class Asked:
    """What became of one sample."""

    sample: Sample
    unit: Unit
    question: Question
    calls: tuple[Call, ...]
    line: PredictionLine
    protocol: BenchmarkProtocol
    processor: Processor
    exact_ids: bool

    @property
    def reply(self) -> Prediction:
        """Nothing where the model failed."""
        return self.line.predictions[0] if self.line.predictions else Prediction()

    @property
    def record(self) -> Record:
        """The first record of the unit."""
        return self.unit.records[0]


def ask(
    protocol: BenchmarkProtocol,
    unit: Unit,
    read: Any,
    sample: Sample,
    recorder: Recorder,
    predictor: EnginePredictor,
    exact: bool,
) -> Asked:
    """Ask one unit with the replies of its sample."""
    recorder.calls.clear()
    recorder.replies[:] = [call.get("made_up_reply") for call in sample["model_calls"] if call["kind"] == "generate"]
    (line,) = predict_units(protocol, [(0, unit)], read, predictor)
    (question,) = protocol.build_questions(unit, read, predictor.num_frames)
    processor = predictor.engine.processor
    return Asked(sample, unit, question, tuple(recorder.calls), line, protocol, processor, exact)


def differing(asked: Asked) -> list[str]:
    """What is not as in the original, each named; empty if all is."""
    sample, found = asked.sample, []
    failed = [call for call in sample["model_calls"] if call["kind"] == "generate" and call["made_up_reply"] is None]
    if asked.line.error and not failed:
        return [f"failed: {asked.line.error}"]
    if len(asked.calls) != len(sample["prompts"]):
        return [f"{len(asked.calls)} prompts, expected {len(sample['prompts'])}"]
    loads = sample.get("loads") or [None] * len(asked.calls)
    for place, call in enumerate(asked.calls):
        parts = [
            (f"frames {place}", _frames(asked, call, loads[place], sample["vision"][place])),
            (f"prompt {place}", _prompt(asked, call, sample["prompts"][place])),
            (f"call {place}", _call(asked, call, sample["model_calls"][place])),
        ]
        found += [f"{name}: {one}" for name, problems in parts for one in problems]
    return found + [f"result: {one}" for one in _result(asked)]


def _unequal(**pairs: tuple[Any, Any]) -> list[str]:
    return [
        f"{name} is {ours!r:.300}, expected {theirs!r:.300}" for name, (ours, theirs) in pairs.items() if ours != theirs
    ]


def _frames(asked: Asked, call: Call, load: Mapping[str, Any] | None, vision: Mapping[str, Any]) -> list[str]:
    """Frames, their names and sizes."""
    sample, media, settings = asked.sample, call.visual.media, call.visual.settings
    entry, seen = vision["entries"][0], call.visual.llm_frame_indices
    found = _unequal(
        min_pixels=(settings.min_pixels, entry["min_pixels"]),
        max_pixels=(settings.compute_max_area(len(seen)), entry["max_pixels"]),
        size=([[call.visual.num_frames, *call.visual.input_hw]], vision["resized_num_h_w"]),
    )
    if vision["fps"] != "not passed" and [settings.fps] != pytest.approx(vision["fps"]):
        found.append(f"fps is {settings.fps}, expected {vision['fps']}")
    source = entry["source"]
    names = asked.record.frame_names
    if isinstance(source, Mapping) and "names" in source and names is not None:
        found += _unequal(names=([PurePosixPath(names[t]).name for t in seen], source["names"]))
    if load is not None:
        found += _unequal(
            tensor=([media.num_frames, *media.size_hw, 3], load["frames_tensor"]), seen=(len(seen), load["llm_frames"])
        )
        if "all_frame_inds" in sample:  # of VideoRefer, counted among the annotated frames
            wanted = [sample["all_frame_inds"][i] for i in load["inds"]]
            found += _unequal(frames=([media.frame_indices[t] for t in seen], wanted))
        else:
            found += _unequal(frames=(list(seen), load["inds"]))
    return found


def _prompt(asked: Asked, call: Call, prompt: Mapping[str, Any]) -> list[str]:
    """Text and ids, grid, seconds and pixels."""
    text, ids = prompt["text"], [n for one in prompt["input_ids"] for n in _run(one)]
    if call.ask.answer:  # the original also reads the marker behind a dictated answer, after all that counts
        text, ids = text.removesuffix("<|im_end|>\n"), ids[:-2]
    pad = asked.processor.chat.ids["<|video_pad|>"]
    kept = [n for place, n in enumerate(call.ids) if n != pad or place == 0 or call.ids[place - 1] != pad]
    ours = asked.processor.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    found = _unequal(text=(ours, text), grid=([list(call.visual.grid)], prompt["video_grid_thw"]))
    if asked.exact_ids:
        found += _unequal(ids=(call.ids, ids))
    seconds = call.visual.second_per_grid.tolist()
    if seconds != pytest.approx(prompt["second_per_grid_ts"]):
        found.append(f"seconds per grid are {seconds}, expected {prompt['second_per_grid_ts']}")
    total = float(call.visual.pixel_values.double().sum())
    if abs(total - prompt["pixel_values_sum"]) > PIXEL_SUM:
        found.append(f"pixels sum to {total:.2f}, expected {prompt['pixel_values_sum']:.2f}")
    return found


def _run(one: int | Sequence[int]) -> list[int]:
    return [one] if isinstance(one, int) else [one[0]] * one[1]


def _call(asked: Asked, call: Call, made: Mapping[str, Any]) -> list[str]:
    """SAM's frames, points, regions and how the reply is written."""
    found: list[str] = []
    media, decoding = call.visual.media, call.ask.options
    if "sam_frames_shape" in made:
        shape, mean = squares(asked.record, media, call.visual.settings)
        found += _unequal(sam=(shape, made["sam_frames_shape"]), size=(list(media.size_hw), made["frame_size_hw"]))
        if abs(mean - made["sam_frames_mean"]) > 1e-5:
            found.append(f"the mean of SAM's frames is {mean:.6f}, expected {made['sam_frames_mean']:.6f}")
    if "point_coords" in made:
        coords = [[one.tolist()] for one in call.inputs.point_coords]
        labels = [[one.tolist()] for one in call.inputs.point_labels]
        found += _unequal(
            points=(coords, made["point_coords"]),
            labels=(labels, made["point_labels"]),
            point_frames=([call.inputs.point_frames.tolist()], made["point_frames"]),
        )
    if "refer_mask_shape" in made:
        grid = call.inputs.region_masks
        if grid is None:
            return [*found, "there are no regions"]
        cells = grid.numpy().astype(np.uint8)
        found += _unequal(
            regions=(list(cells.shape), made["refer_mask_shape"]),
            cells=(cells.sum((2, 3)).tolist(), made["refer_mask_cells_per_step_and_object"]),
            sha1=(hashlib.sha1(np.ascontiguousarray(cells)).hexdigest()[:16], made["refer_mask_sha1"]),
        )
    if made["kind"] == "forward":
        return found + _unequal(dictated=(bool(call.ask.answer), True))
    wanted = made["generation"]
    return found + _unequal(
        dictated=(bool(call.ask.answer), False),
        longest=(decoding.max_new_tokens, wanted["max_new_tokens"]),
        greedy=(decoding.temperature == 0, not wanted["do_sample"]),
        penalty=(None, wanted["repetition_penalty"]),
    )


_SQUARES: dict[Any, tuple[list[int], float]] = {}


def squares(record: Record, media: Media, settings: ImageSettings) -> tuple[list[int], float]:
    """Shape and mean of SAM's frames, a few at a time; each clip is resized once."""
    key = (record.root, record.frame_names or str(record.raw[0]), media.frame_indices)
    if key in _SQUARES:
        return _SQUARES[key]
    total, count = 0.0, 0
    for first in range(0, media.num_frames, 8):
        part = prepare_sam_frames(media.frames(range(first, min(first + 8, media.num_frames))), settings)
        total, count = total + float(part.double().sum()), count + part.numel()
    _SQUARES[key] = [media.num_frames, *part.shape[1:]], total / count
    return _SQUARES[key]


def _result(asked: Asked) -> list[str]:
    """What is written down of a reply, and what it is worth."""
    sample, (measures,) = asked.sample, asked.line.measures
    found: list[str] = []
    if "written_pngs" in sample:
        found += _written(asked, sample["written_pngs"])
    if "official_result" in sample:
        wanted = sample["official_result"]
        found += _unequal(inter=(measures["intersection"], wanted["inter"]), union=(measures["union"], wanted["union"]))
        if "hit" in wanted:
            found += _unequal(hit=(measures["hit"], wanted["hit"]))
    dumped = sample.get("dumped", {})
    text = dumped.get("response", dumped.get("pred"))
    if text is not None:
        found += _unequal(reply=(asked.reply.text, text))
    for key, name in (("j_values", "J"), ("f_values", "F")):
        if key in dumped and measures[name] != pytest.approx(dumped[key], abs=1e-6):
            found.append(f"{name} is {measures[name]}, expected {dumped[key]}")
    if "ans" in sample:
        found += _unequal(right=(measures["expected"], sample["ans"]), task=(measures["category"], sample["task"]))
    return found


def _written(asked: Asked, wanted: Mapping[str, Any]) -> list[str]:
    """The masks that a scorer reads: those of the first object."""
    media = asked.question.sample.media
    tracks = [one.track for one in asked.reply.objects[:1]]
    track = tracks[0] if tracks else MaskTrack(media.size_hw, (None,) * media.num_frames)
    names = [f"{name}.png" for name in asked.question.frame_names]
    values = {value for t in range(track.num_frames) for value in np.unique(track.mask(t)).tolist()}
    return _unequal(
        folder=(asked.unit.id, wanted["dir"].removeprefix("<out>/")),
        count=(len(names), wanted["count"]),
        first=(names[: len(wanted["first"])], wanted["first"]),
        last=(names[-len(wanted["last"]) :], wanted["last"]),
        values=(sorted(255 if value else 0 for value in values), sorted(wanted["values"])),
        white=(int(track.areas[0]), wanted["white_pixels_first"]),
    )


# predictions made from the truth by a rule, and their scores


def by_rule(rule: str, truth: np.ndarray) -> np.ndarray:
    """A prediction, bool (T, H, W)."""
    if rule == "truth":
        return truth
    made = np.zeros_like(truth)
    if rule == "shift":
        made[:, 3:, 7:] = truth[:, :-3, :-7]
    elif rule == "lag":
        made[:] = truth[[max(t - 3, 0) for t in range(len(truth))]]
    elif rule == "full":
        made[:] = True
    elif rule != "empty":
        raise ValueError(rule)
    return made


def fingerprint(masks: np.ndarray) -> str:
    """As the JSON has it."""
    return hashlib.sha1(np.packbits(masks).tobytes()).hexdigest()[:16]


# where a sample comes from


def root_of(protocols: Path, part: Mapping[str, Any], miniatures: Callable[[], Path]) -> Path:
    """The ``data`` folder that a part was made from."""
    own, sample = protocols / "inputs", part["samples"][0]
    named = str(part.get("source_inputs", "")).startswith("inputs")
    return own / "data" if named or all((own / path).exists() for path in media_of(sample)) else miniatures()


def media_of(sample: Sample) -> list[str]:
    """Files and folders that a sample is read from, relative to the folder above ``data``."""
    places = [sample[key] for key in ("first_file", "last_file", "video_path") if key in sample]
    return [f"{place['dir']}/{name}" if isinstance(place, Mapping) else str(place) for place in places
            for name in (place["names"] if isinstance(place, Mapping) else [""])]  # fmt: skip


def matching(units: Sequence[Unit], sample: Sample, taken: set[str]) -> Unit | None:
    """The unit of a sample: by its place in the split where that is given, else by what it is about; None: none."""
    if "index" in sample:
        return units[sample["index"]] if sample["index"] < len(units) else None
    for unit in units:
        if unit.id not in taken and _is_about(unit.records[0], sample):
            taken.add(unit.id)
            return unit
    return None


def _is_about(record: Record, sample: Sample) -> bool:
    video, query = record.raw[0], record.raw[-1]
    place = sample["video_path"]
    own = str(place["dir"] if isinstance(place, Mapping) else place)
    if not own.endswith(f"/{video}"):
        return False
    if isinstance(query, Query):
        return query.text in sample["prompts"][0]["text"] and query.category == sample["task"]
    if record.raw[3] != sample["frame_idx"]:
        return False
    text = query["text"] or query["answer"]
    return text in (sample["prompts"][-1]["text"], sample.get("caption")) or text in sample["prompts"][-1]["text"]
