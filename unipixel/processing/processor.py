"""From a conversation about a clip to what the model takes: one path for training, evaluation and serving."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from unipixel.atomic import write_text
from unipixel.errors import CheckpointError, DatasetError, PromptError
from unipixel.masks import MaskTrack
from unipixel.media import Media
from unipixel.model.config import UniPixelConfig, read_json
from unipixel.processing import collation, images
from unipixel.processing.chat import END_OF_TEXT, IMAGE_PAD, MEM, REF, SEG, TURN_END, VIDEO_PAD, ChatTemplate
from unipixel.processing.collation import IGNORE_INDEX, TrainingBatch, TrainingInputs, build_text_inputs
from unipixel.processing.images import ImageSettings, VisualInput
from unipixel.processing.prompts import SamPoints, build_reference
from unipixel.processing.regions import build_region_masks, build_target_masks, check_track, format_region_lines
from unipixel.processing.tokenizer import load_tokenizer, save_tokenizer
from unipixel.sample import Sample, Turn


@dataclass(frozen=True, eq=False)
class TurnInputs:
    """What one question adds to the model's input, in the order of the text."""

    input_ids: Tensor
    """int64 (L,); ends where the answer begins."""
    point_coords: list[Tensor]
    """Per ``<|ref|>`` float32 (P, 2) in SAM pixels."""
    point_labels: list[Tensor]
    """Per ``<|ref|>`` int64 (P,)."""
    point_frames: Tensor
    """int64 (R,): frame of each ``<|ref|>`` among the frames that the language model sees."""
    region_masks: Tensor | None
    """(t, N, h/2, w/2) of the objects behind ``<|mem|>``, as of `regions.pool_to_grid`; None without regions."""

    @classmethod
    def from_ids(cls, ids: Sequence[int] = ()) -> TurnInputs:
        """Words alone."""
        return cls(torch.tensor(ids, dtype=torch.long), [], [], torch.zeros(0, dtype=torch.long), None)

    def join(self, ids: Sequence[int], later: TurnInputs) -> TurnInputs:
        """Both as one, with ``ids`` in the place of the later one's tokens."""
        masks = [one for one in (self.region_masks, later.region_masks) if one is not None]
        return TurnInputs(
            torch.cat([self.input_ids, torch.tensor(ids, dtype=torch.long)]),
            [*self.point_coords, *later.point_coords],
            [*self.point_labels, *later.point_labels],
            torch.cat([self.point_frames, later.point_frames]),
            torch.cat(masks, 1) if masks else None,
        )


QuestionInputs: TypeAlias = tuple[str, list[SamPoints], Tensor | None]
"""A question that has been checked: its text with the region lines, what its ``<|ref|>`` and ``<|mem|>`` stand for."""


def find_vocabulary_errors(ids: Mapping[str, int], entries: int, config: UniPixelConfig) -> list[str]:
    """What does not fit between a tokenizer and a model, one clause each.

    Args:
        ids: number of each special token in the tokenizer.
        entries: tokens that the tokenizer knows, or one more than its largest number.
        config: of the model.
    """
    wanted = {
        REF: config.ref_token_id,
        SEG: config.seg_token_id,
        MEM: config.mem_token_id,
        VIDEO_PAD: config.video_token_id,
        IMAGE_PAD: config.image_token_id,
    }
    problems = [
        f"{token} is number {ids.get(token, 'none')} in the tokenizer and {number} in config.json"
        for token, number in wanted.items()
        if ids.get(token) != number
    ]
    if TURN_END in ids and ids[TURN_END] not in config.eos_token_ids:
        ends = ", ".join(map(str, config.eos_token_ids))
        problems.append(f"{TURN_END} is number {ids[TURN_END]}, and replies end at {ends} only")
    if entries > config.language.vocab_size:
        problems.append(f"the tokenizer has {entries} entries, the model's vocabulary {config.language.vocab_size}")
    return problems


class Processor:
    """Tokenizer and image settings of a checkpoint, and everything that needs both.

    Raises:
        CheckpointError: the tokenizer lacks a special token.
    """

    def __init__(self, tokenizer: Any, settings: ImageSettings | None = None) -> None:
        self.tokenizer = tokenizer
        self.settings = settings or ImageSettings()
        self.chat = ChatTemplate(tokenizer)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Processor:
        """Read the tokenizer, ``preprocessor_config.json`` and the SAM size of a checkpoint folder.

        Raises:
            CheckpointError: a file is missing or malformed.
        """
        folder = Path(folder)
        config = folder / "config.json"
        size = read_json(config).get("sam2_image_size") if config.exists() else None
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise CheckpointError(f"{config}: sam2_image_size is {size!r}; it must be a positive number of pixels")
        return cls(load_tokenizer(folder), ImageSettings.from_folder(folder, sam_size=size))

    def check_ids(self, config: UniPixelConfig) -> None:
        """Refuse a tokenizer or image settings that were not made for a model: answers would be wrong in silence.

        Raises:
            CheckpointError: lists what does not fit.
        """
        settings, vision = self.settings, config.vision
        cut = (settings.patch_size, settings.merge_size, settings.temporal_patch_size)
        if cut != (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size):
            raise CheckpointError(
                f"the image settings cut frames by {cut} (patch_size, merge_size, temporal_patch_size), config.json by "
                f"{(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)}"
            )
        if settings.sam_size != config.sam.image_size:
            raise CheckpointError(f"sam_size is {settings.sam_size}, the model's {config.sam.image_size}")
        if problems := find_vocabulary_errors(self.chat.ids, 1 + max(self.tokenizer.get_vocab().values()), config):
            raise CheckpointError(f"the tokenizer does not fit config.json: {'; '.join(problems)}")

    def save(self, folder: str | Path) -> None:
        """Write the files that `from_folder` reads, in the form of the released checkpoints."""
        folder = Path(folder)
        save_tokenizer(self.tokenizer, folder)
        trees = {images.FILE: self.settings.to_dict(), images.VIDEO_FILE: self.settings.to_video_dict()}
        for name, tree in trees.items():
            write_text(folder / name, json.dumps(tree, indent=2, sort_keys=True) + "\n")

    def build_visual(self, media: Media, include: Sequence[int] = ()) -> VisualInput:
        return VisualInput(media, self.settings, include)

    def prepare_sam_frames(self, frames: np.ndarray) -> Tensor:
        """Frames, uint8 (T, H, W, 3), as SAM sees them, float32 (T, 3, S, S)."""
        return images.prepare_sam_frames(frames, self.settings)

    def build_first_turn(
        self, turn: Turn, visual: VisualInput, objects: Mapping[int, MaskTrack] | None = None
    ) -> TurnInputs:
        """The beginning of a conversation: system prompt, visual and the first question.

        Args:
            objects: known objects by id, for ``turn.regions``.

        Raises:
            PromptError: the question or one of its prompts is not usable.
        """
        question = self._build_question(turn, visual, objects or {})
        ids = self.chat.encode_opening(visual.num_tokens) + self.chat.encode_question(question[0])
        return _build_turn_inputs(ids, [question], visual)

    def build_next_turn(
        self, turn: Turn, visual: VisualInput, objects: Mapping[int, MaskTrack] | None = None
    ) -> TurnInputs:
        """A later question; it goes on right after the ``<|im_end|>`` of the answer before it.

        Raises:
            PromptError: the question or one of its prompts is not usable.
        """
        question = self._build_question(turn, visual, objects or {})
        return _build_turn_inputs(self.chat.encode_next_question(question[0]), [question], visual)

    def build_conversation(self, turns: Sequence[Turn], visual: VisualInput | None) -> list[int]:
        """Token ids of a whole conversation, up to where the answer to its last question begins.

        Args:
            turns: questions without prompts and regions; all but the last with their answers.

        Raises:
            PromptError: a question or answer is not usable.
        """
        ids = [] if visual is None else self.chat.encode_opening(visual.num_tokens)
        for k, turn in enumerate(turns):
            text, _, _ = self._build_question(turn, visual, {})
            write = self.chat.encode_next_question if k else self.chat.encode_question
            ids += write(text) if ids else self.chat.encode_opening_question(text)
            if k + 1 < len(turns):
                self.chat.check_text(turn.answer, "answer", SEG, turn.answer.count(SEG))
                ids += self.chat.encode_answer(turn.answer)
        return ids

    @property
    def turn_end_id(self) -> int:
        """``<|im_end|>``: closes an answer, and must stand in the context before `build_next_turn`."""
        return self.chat.ids[TURN_END]

    def decode_answer(self, ids: Iterable[int]) -> str:
        """Raw text of an answer without its end marker; ``<|seg|>`` stays as it is written."""
        return self.chat.decode_answer([int(i) for i in ids])

    def build_training_inputs(
        self, sample: Sample, *, sam_masks: bool = True, independent_turns: bool = False
    ) -> TrainingInputs:
        """A whole conversation with its answers, labels and ground-truth masks.

        Args:
            sam_masks: also prepare SAM's frames and target masks (for samples that segment anything).
            independent_turns: write every turn as if it were the first, all sharing one visual; `collate` then
                hides the turns from each other. Many questions per picture for little more than the price of one.

        Raises:
            DatasetError: the sample is not usable; the message names it.
        """
        try:
            return self._build_training_inputs(sample, sam_masks, independent_turns)
        except PromptError as error:
            raise DatasetError(f"{sample.source or 'sample'}: {error}") from error

    def collate(self, samples: Sequence[TrainingInputs], config: UniPixelConfig | None = None) -> TrainingBatch:
        """A batch for the model's training forward; see `collation.collate`."""
        return collation.collate(samples, pad_token_id=self.chat.ids[END_OF_TEXT], config=config)

    def _build_question(
        self, turn: Turn, visual: VisualInput | None, objects: Mapping[int, MaskTrack]
    ) -> QuestionInputs:
        self.chat.check_text(turn.question, "question", REF, len(turn.references))
        if not turn.question.strip():
            raise PromptError("the question is empty; ask something about the picture or video")
        if visual is None:
            if turn.references or turn.regions or turn.targets:
                raise PromptError("a turn has points, regions or masks, but the sample has no picture or video")
            return turn.question, [], None
        size, num_frames = visual.size_hw, visual.media.num_frames
        side, check = self.settings.sam_size, not turn.as_written
        references = [build_reference(prompts, size, num_frames, side, check=check) for prompts in turn.references]
        missing = [number for number in turn.regions if number not in objects]
        if missing:
            raise PromptError(f"object {missing[0]} is not known; known are {sorted(objects) or 'none'}")
        if len(set(turn.regions)) < len(turn.regions):
            raise PromptError(f"the regions {list(turn.regions)} name an object twice; each may be given once")
        if not turn.regions:
            return turn.question, references, None
        tracks = {number: objects[number] for number in turn.regions}
        masks = build_region_masks(tracks, visual, unseen=turn.as_written)
        step = self.settings.temporal_patch_size
        prefix = format_region_lines(turn.regions, masks, len(visual.shown_frames), step=step)
        return prefix + turn.question, references, masks

    def _build_training_inputs(self, sample: Sample, sam_masks: bool, independent_turns: bool) -> TrainingInputs:
        if not sample.turns:
            raise PromptError("the sample has no turn; a conversation needs at least one question and answer")
        if sample.is_text_only and independent_turns:
            raise PromptError("independent turns share a visual, and the sample has no picture or video")
        visual = None if sample.is_text_only else self._build_training_visual(sample)
        questions = [self._build_question(turn, visual, sample.objects) for turn in sample.turns]
        pad = IMAGE_PAD if sample.as_image else VIDEO_PAD
        opening = [] if visual is None else self.chat.encode_opening(visual.num_tokens, pad)
        ids, labels, turn_ids = self._encode_turns(sample.turns, questions, opening, independent_turns)
        if visual is None:
            return build_text_inputs(torch.tensor(ids), torch.tensor(labels))
        inputs = _build_turn_inputs(ids, questions, visual)
        segments = sam_masks and any(turn.targets for turn in sample.turns)
        targets = self._build_target_masks(sample) if segments else None
        patches, squares = self._read_pixels(visual) if segments else (visual.pixel_values, None)
        out = TrainingInputs(
            input_ids=inputs.input_ids,
            labels=torch.tensor(labels),
            pixel_values=patches,
            grid_thw=visual.grid_thw,
            second_per_grid=visual.second_per_grid,
            point_coords=inputs.point_coords,
            point_labels=inputs.point_labels,
            point_frames=inputs.point_frames,
            point_num_frames=torch.full_like(inputs.point_frames, visual.num_frames),
            region_masks=inputs.region_masks,
            sam_frames=squares,
            target_masks=targets,
        )
        if sample.as_image:
            out["as_image"] = True
        if independent_turns:
            out["turn_ids"] = torch.tensor(turn_ids)
        return out

    def _build_training_visual(self, sample: Sample) -> VisualInput:
        """What the language model sees of a training sample.

        Raises:
            PromptError: several frames are to be written as an image.
        """
        if sample.as_image and sample.media.num_frames != 1:
            raise PromptError(f"the sample has {sample.media.num_frames} frames; one can be written as an image")
        if sample.fps is None:
            return self.build_visual(sample.media)
        # a video file that the language model is told the rate of is read as Qwen2.5-VL reads it, with one frame's
        # share of the budget at any length
        settings = replace(self.settings, fps=sample.fps, frame_resize="tensor", share_budget=False)
        return VisualInput(sample.media, settings)

    def _encode_turns(
        self, turns: Sequence[Turn], questions: Sequence[QuestionInputs], opening: list[int], independent_turns: bool
    ) -> tuple[list[int], list[int], list[int]]:
        """A conversation as token ids, their labels, and the turn (from 1) that each belongs to (0: the beginning)."""
        ids = list(opening)
        labels, turn_ids = [IGNORE_INDEX] * len(ids), [0] * len(ids)
        for k, (turn, (text, _, _)) in enumerate(zip(turns, questions, strict=True)):
            self.chat.check_text(turn.answer, "answer", SEG, len(turn.targets))
            if not turn.answer:
                raise PromptError(f"turn {k} has no answer; there is nothing to learn from it")
            # the first turn and every independent one goes on right after the visual
            after_visual = k == 0 or independent_turns
            write = self.chat.encode_question if after_visual else self.chat.encode_next_question
            if not ids:
                write = self.chat.encode_opening_question
            question = write(text)
            answer = self.chat.encode_answer(turn.answer)
            ids += question + answer
            labels += [IGNORE_INDEX] * len(question) + answer
            turn_ids += [k + 1] * (len(question) + len(answer))
        return ids, labels, turn_ids

    def _build_target_masks(self, sample: Sample) -> Tensor:
        """Ground truth, bool (T, O, S, S), in the order of ``<|seg|>``."""
        media = sample.media
        tracks: list[MaskTrack | None] = []
        for number in (number for turn in sample.turns for number in turn.targets):
            if number is not None and number not in sample.objects:
                raise PromptError(f"an answer segments object {number}; known are {sorted(sample.objects) or 'none'}")
            tracks.append(None if number is None else sample.objects[number])
            if number is not None:
                check_track(number, sample.objects[number], media.size_hw, media.num_frames)
        return build_target_masks(tracks, media.num_frames, self.settings.sam_size, self.settings.target_rule)

    def _read_pixels(self, visual: VisualInput) -> tuple[Tensor, Tensor]:
        """Patches and SAM's squares of a clip that is read once; source frames are not kept."""
        seen = set(visual.llm_frame_indices)
        resized, squares = [], []
        for t, frame in enumerate(visual.media):
            squares.append(self.prepare_sam_frames(frame[None]))
            if t in seen:
                resized.append(images.resize_frame(frame, visual.input_hw, visual.settings.frame_resize))
        return visual.patchify(resized), torch.cat(squares)


def _build_turn_inputs(ids: list[int], questions: Sequence[QuestionInputs], visual: VisualInput) -> TurnInputs:
    """Token ids together with what stands behind the special tokens of the questions in them."""
    references = [one for _, references, _ in questions for one in references]
    masks = [one for _, _, one in questions if one is not None]
    return TurnInputs(
        torch.tensor(ids),
        [coords for coords, _, _ in references],
        [labels for _, labels, _ in references],
        torch.tensor([visual.find_position(frame) for _, _, frame in references], dtype=torch.long),
        torch.cat(masks, dim=1) if masks else None,
    )
