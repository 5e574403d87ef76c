"""Conversations written by us against token ids and labels of the original, read back from its own tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from unipixel.media import Media
from unipixel.processing import Processor
from unipixel.processing.chat import MEM, REF, SEG
from unipixel.processing.regions import format_region_lines
from unipixel.sample import Point, Sample, Turn

Find = Callable[[str], Path]
TURN = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>\n<\|im_start\|>assistant\n(?:(.*?)<\|im_end\|>)?", re.DOTALL)
VISUAL = re.compile(r"<\|vision_start\|>((?:<\|video_pad\|>)*)<\|vision_end\|>")


@pytest.fixture(scope="module")
def released(parity_file: Find) -> Processor:
    return Processor.from_folder(parity_file("processor"))


def conversations(path: Path, *names: str) -> Iterator[tuple[str, list[Tensor]]]:
    """(case and row, tensors called ``names`` without padding) of a golden file."""
    with safe_open(path, "pt") as file:
        for case in sorted({key.split("/")[0] for key in file.keys()}):  # noqa: SIM118
            mask = file.get_tensor(f"{case}/in/attention_mask").bool()
            columns = [file.get_tensor(f"{case}/in/{name}") for name in names]
            for row in range(len(mask)):
                yield f"{case}.{row}", [column[row][mask[row]] for column in columns]


def parts(text: str) -> tuple[int | None, list[tuple[str, str | None]]]:
    """Number of visual tokens (None where there is not one video at the front) and (question, answer) of each turn."""
    turns = [(question, answer or None) for question, answer in TURN.findall(text)]
    found = VISUAL.findall(text)
    if len(found) != 1 or "<|image_pad|>" in text or not VISUAL.match(turns[0][0]):
        return None, turns
    turns[0] = (VISUAL.sub("", turns[0][0]), turns[0][1])
    return found[0].count("<|video_pad|>"), turns


GOLDEN = (
    "text_video",
    "refer_points",
    "refer_masks",
    "segment_image",
    "segment_video",
    "segment_video_long",
    "segment_batch_mode",
    "generate",
    "train_loss",
)


@pytest.mark.parametrize("name", GOLDEN)
def test_chat_writes_the_original_token_ids(name: str, parity_file: Find, released: Processor) -> None:
    chat, checked = released.chat, 0
    for case, (expected,) in conversations(parity_file(f"{name}.safetensors"), "input_ids"):
        tokens, turns = parts(released.tokenizer.decode(expected))
        if tokens is None:
            continue  # no visual, two of them, or a still image given as one: never written by us
        ids = chat.encode_opening(tokens)
        for k, (question, answer) in enumerate(turns):
            ids += chat.encode_question(question) if k == 0 else chat.encode_next_question(question)
            ids += chat.encode_answer(answer) if answer is not None else []
        if expected[-1] != ids[-1]:
            ids += chat.encode("\n")  # some golden inputs keep the line break behind the last answer
        assert ids == expected.tolist(), case
        checked += 1
    if not checked:
        pytest.skip(f"{name} has no conversation with one video at its front")


def test_labels_cover_answers_and_their_end_only(parity_file: Find, released: Processor) -> None:
    for case, (ids, labels) in conversations(parity_file("train_loss.safetensors"), "input_ids", "labels"):
        _, turns = parts(released.tokenizer.decode(ids))
        answers = [token for _, answer in turns if answer is not None for token in released.chat.encode_answer(answer)]
        assert labels[labels >= 0].tolist() == answers, case
        assert torch.equal(ids[labels >= 0], labels[labels >= 0]), case


def test_training_gives_the_original_ids_and_labels(parity_file: Find, released: Processor) -> None:
    media = Media.from_array(np.zeros((2, 56, 56, 3), np.uint8))
    end = released.chat.ids["<|vision_end|>"]
    for case, (ids, labels) in conversations(parity_file("train_loss.safetensors"), "input_ids", "labels"):
        tokens, turns = parts(released.tokenizer.decode(ids))
        if tokens is None or any(MEM in question or answer is None for question, answer in turns):
            continue  # region lines are written by us, not given
        written = tuple(
            Turn(
                question=question,
                answer=answer or "",
                references=((Point(1, 1),),) * question.count(REF),
                targets=(None,) * (answer or "").count(SEG),
            )
            for question, answer in turns
        )
        found = released.build_training_inputs(Sample(media=media, turns=written), sam_masks=False)
        # this clip has another number of visual tokens, so compare what follows them
        ours, theirs = found["input_ids"].tolist(), ids.tolist()
        assert ours[ours.index(end) :] == theirs[theirs.index(end) :], case
        assert found["labels"].tolist()[ours.index(end) :] == labels.tolist()[theirs.index(end) :], case
        assert set(found["labels"].tolist()[: ours.index(end)]) == {-100}, case


def test_region_lines_are_worded_as_the_original(parity_file: Find, released: Processor) -> None:
    path = parity_file("refer_masks.safetensors")
    for case, (ids,) in conversations(path, "input_ids"):
        text = released.tokenizer.decode(ids)
        with safe_open(path, "pt") as file:
            masks = file.get_tensor(f"{case.rsplit('.', 1)[0]}/in/refer_mask.0").bool()
        frames = re.search(r"a video with (\d+) frames", text)
        numbers = [int(number) for number in re.findall(r"^.*?\[(\d+)\]: ", text, re.MULTILINE)]
        prefix = format_region_lines(numbers, masks, int(frames[1]) if frames else 1)
        assert f"<|vision_end|>{prefix}" in text, case
        assert prefix.count(MEM) == text.count(MEM), case
