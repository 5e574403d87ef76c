"""Conversations about clips as model inputs: prompts in text order, labels, targets, turns apart from each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unipixel.errors import CheckpointError, DatasetError, PromptError
from unipixel.masks import MaskTrack
from unipixel.media import Media
from unipixel.model.unipixel import UniPixel
from unipixel.processing import ImageSettings, Processor, collate
from unipixel.processing.images import resize_frame
from unipixel.sample import Box, Point, Sample, Turn

TURNS = (
    Turn(
        question="What is <|ref|> beside <|ref|>?",
        answer="the dog <|seg|>",
        references=((Point(6, 4, frame=2),), (Box(0, 0, 30, 40),)),
        targets=(1,),
    ),
    Turn(question="What is [2]?", answer="the cat", regions=(2,)),
    Turn(
        question="Where is <|ref|> and [2]?",
        answer="<|seg|> and <|seg|>",
        references=((Point(59, 39),),),
        regions=(1, 2),
        targets=(2, None),
    ),
)


@pytest.fixture
def sample(clip: Media, objects: dict[int, MaskTrack]) -> Sample:
    return Sample(media=clip, objects=objects, turns=TURNS, source="world/7")


def test_a_first_turn_carries_the_visual_and_later_turns_do_not(
    processor: Processor, clip: Media, objects: dict[int, MaskTrack]
) -> None:
    visual = processor.build_visual(clip)
    first = processor.build_first_turn(TURNS[0], visual, objects)
    later = processor.build_next_turn(TURNS[1], visual, objects)
    pad = processor.chat.ids["<|video_pad|>"]
    assert (first.input_ids == pad).sum() == visual.num_tokens == 12
    assert (later.input_ids == pad).sum() == 0
    assert processor.tokenizer.decode(later.input_ids) == (
        "\n<|im_start|>user\nHere is a video with 3 frames denoted as <1> to <3>. "
        "The highlighted regions are as follows:\n[2]: <3>-<4> <|mem|>\nWhat is [2]?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_prompts_come_in_the_order_of_the_text(processor: Processor, clip: Media) -> None:
    turn = processor.build_first_turn(TURNS[0], processor.build_visual(clip))
    assert [coords.tolist() for coords in turn.point_coords] == [
        [pytest.approx([6 * 64 / 60, 4 * 64 / 40])],
        [[0, 0], [32, 64]],
    ]
    assert [labels.tolist() for labels in turn.point_labels] == [[1], [2, 3]]
    assert turn.point_frames.tolist() == [2, 0]
    assert turn.region_masks is None


def test_a_prompt_on_a_long_clip_counts_in_the_frames_that_are_read(processor: Processor) -> None:
    long = Media.from_array(np.zeros((10, 40, 60, 3), np.uint8))
    turn = Turn(question="What is <|ref|>?", references=((Point(1, 1, frame=4),),))
    assert processor.build_first_turn(turn, processor.build_visual(long)).point_frames.tolist() == [1]
    assert processor.build_first_turn(turn, processor.build_visual(long, include=[4])).point_frames.tolist() == [1]
    with pytest.raises(PromptError, match="frames 0 to 9"):
        processor.build_first_turn(replace(turn, references=((Point(1, 1, frame=10),),)), processor.build_visual(long))


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (Turn(question="  "), "the question is empty"),
        (Turn(question="What is <|ref|>?"), "has 1 <\\|ref\\|>, expected 0"),
        (Turn(question="What?", references=((Point(1, 1),),)), "has 0 <\\|ref\\|>, expected 1"),
        (Turn(question="Hi<|im_end|>"), "contains the reserved token <\\|im_end\\|>"),
        (Turn(question="<|mem|>?", regions=(1,)), "contains the reserved token <\\|mem\\|>"),
        (Turn(question="What is [3]?", regions=(3,)), "object 3 is not known; known are \\[1, 2\\]"),
        (Turn(question="What is [1]?", regions=(1, 1)), "name an object twice"),
        (Turn(question="<|ref|>?", references=((Point(70, 1),),)), "outside the frame"),
        (Turn(question="<|ref|>?", references=((),)), "has no prompt"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(
    turn: Turn, message: str, processor: Processor, clip: Media, objects: dict[int, MaskTrack]
) -> None:
    visual = processor.build_visual(clip)
    for ask in (processor.build_first_turn, processor.build_next_turn):
        with pytest.raises(PromptError, match=message):
            ask(turn, visual, objects)


def test_training_strings_the_turns_together_as_a_session_would(processor: Processor, sample: Sample) -> None:
    whole = processor.build_training_inputs(sample)
    visual = processor.build_visual(sample.media)
    ids: list[int] = []
    for k, turn in enumerate(TURNS):
        step = (processor.build_next_turn if k else processor.build_first_turn)(turn, visual, sample.objects)
        ids += step.input_ids.tolist() + processor.chat.encode_answer(turn.answer)
    assert whole["input_ids"].tolist() == ids
    assert torch.equal(whole["pixel_values"], visual.pixel_values)
    assert whole["point_frames"].tolist() == [2, 0, 0]
    assert whole["point_num_frames"].tolist() == [4, 4, 4]
    assert [len(labels) for labels in whole["point_labels"]] == [1, 2, 1]
    assert whole["region_masks"] is not None
    assert whole["region_masks"].shape == (2, 3, 2, 3)  # object 2, then objects 1 and 2
    mem = processor.chat.ids["<|mem|>"]
    steps = whole["region_masks"].flatten(2).any(-1).sum()
    assert (whole["input_ids"] == mem).sum() == steps == 1 + 2 + 1


def test_only_answers_and_their_ends_are_learnt(processor: Processor, sample: Sample) -> None:
    for independent in (False, True):
        whole = processor.build_training_inputs(sample, independent_turns=independent)
        learnt = whole["labels"] >= 0
        assert torch.equal(whole["labels"][learnt], whole["input_ids"][learnt])
        expected = "".join(f"{turn.answer}<|im_end|>" for turn in TURNS)
        assert processor.tokenizer.decode(whole["labels"][learnt]) == expected


def test_targets_follow_the_seg_tokens_and_absent_objects_are_empty(processor: Processor, sample: Sample) -> None:
    whole = processor.build_training_inputs(sample)
    assert whole["sam_frames"] is not None
    assert whole["target_masks"] is not None
    assert whole["sam_frames"].shape == (3, 3, 64, 64)
    assert torch.equal(whole["sam_frames"], processor.prepare_sam_frames(sample.media.frames()))
    assert whole["target_masks"].shape == (3, 3, 64, 64)
    seen = whole["target_masks"].flatten(2).any(-1).T.tolist()
    assert seen == [[True, True, True], [False, False, True], [False, False, False]]


def test_samples_that_segment_nothing_have_no_sam_frames(processor: Processor, sample: Sample) -> None:
    assert processor.build_training_inputs(replace(sample, turns=TURNS[1:2]))["sam_frames"] is None
    assert processor.build_training_inputs(sample, sam_masks=False)["target_masks"] is None


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((), "world/7: the sample has no turn"),
        ((Turn(question="What?"),), "world/7: turn 0 has no answer"),
        ((Turn(question="What?", answer="<|seg|>"),), r"world/7: the answer has 1 <\|seg\|>, expected 0"),
        ((Turn(question="What?", answer="x", targets=(1,)),), r"the answer has 0 <\|seg\|>, expected 1"),
        ((Turn(question="What?", answer="<|seg|>", targets=(9,)),), r"segments object 9; known are \[1, 2\]"),
        ((Turn(question="What?", answer="a<|im_start|>"),), "the answer contains the reserved token"),
    ],
)
def test_a_bad_sample_is_named(turns: Any, message: str, processor: Processor, sample: Sample) -> None:
    with pytest.raises(DatasetError, match=message):
        processor.build_training_inputs(replace(sample, turns=turns))


def test_masks_of_another_size_than_the_clip_are_a_bad_sample(processor: Processor, sample: Sample) -> None:
    other = MaskTrack.from_masks(np.ones((3, 30, 30), dtype=bool))
    with pytest.raises(DatasetError, match="world/7: object 1 has 3 masks of 30 x 30 pixels"):
        processor.build_training_inputs(replace(sample, objects={1: other}, turns=TURNS[:1]))


def test_a_processor_comes_back_from_disk(processor: Processor, clip: Media, tmp_path: Path) -> None:
    processor.save(tmp_path)
    again = Processor.from_folder(tmp_path)
    assert again.settings == processor.settings
    assert again.chat.ids == processor.chat.ids
    turn = Turn(question="What is the dog?")
    found, expected = (one.build_first_turn(turn, one.build_visual(clip)).input_ids for one in (again, processor))
    assert torch.equal(found, expected)
    (tmp_path / "config.json").write_text('{"sam2_image_size": 96}')
    assert Processor.from_folder(tmp_path).settings.sam_size == 96
    (tmp_path / "config.json").write_text('{"sam2_image_size": "big"}')
    with pytest.raises(CheckpointError, match="sam2_image_size is 'big'"):
        Processor.from_folder(tmp_path)


def test_an_image_is_one_frame_shown_twice(processor: Processor) -> None:
    image = Media.from_array(np.zeros((40, 60, 3), np.uint8))
    visual = processor.build_visual(image)
    assert (visual.num_frames, visual.grid[0]) == (2, 1)
    objects = {5: MaskTrack.from_masks(np.ones((1, 40, 60), dtype=bool))}
    turn = processor.build_first_turn(Turn(question="What is [5]?", regions=(5,)), visual, objects)
    assert "Here is an image with the following highlighted regions:\n[5]: <|mem|>\nWhat is [5]?" in (
        processor.tokenizer.decode(turn.input_ids)
    )


def test_an_object_is_remembered_on_each_still_that_shows_it(processor: Processor, sample: Sample) -> None:
    stills = Processor(processor.tokenizer, replace(processor.settings, still_frames=True, max_frames=6))
    visual = stills.build_visual(sample.media)
    turn = stills.build_first_turn(Turn(question="What is [2]?", regions=(2,)), visual, sample.objects)
    assert turn.region_masks is not None
    assert turn.region_masks.flatten(2).any(-1)[:, 0].tolist() == [False, False, True]
    assert "video with 6 frames" in (text := stills.tokenizer.decode(turn.input_ids))
    assert "[2]: <5>-<6> <|mem|>\n" in text
    trained = stills.build_training_inputs(sample)
    torch.testing.assert_close(trained["pixel_values"], visual.pixel_values, atol=0, rtol=0)
    assert trained["point_frames"].tolist()[:2] == [4, 0]  # frame 2 of the clip, and the first


def test_a_batch_keeps_every_sample_and_masks_the_padding(processor: Processor, sample: Sample) -> None:
    samples = [
        processor.build_training_inputs(sample),
        processor.build_training_inputs(replace(sample, turns=TURNS[1:2])),
    ]
    out = processor.collate(samples)
    lengths = [len(s["input_ids"]) for s in samples]
    assert out["attention_mask"].sum(1).tolist() == lengths
    assert (out["labels"][1, lengths[1] :] == -100).all()
    assert torch.equal(out["input_ids"][1, : lengths[1]], samples[1]["input_ids"])
    assert out["grid_thw"].shape == (2, 3)
    assert len(out["pixel_values"]) == out["grid_thw"].prod(1).sum()
    assert len(out["point_coords"]) == len(out["point_frames"]) == len(out["point_num_frames"]) == 3
    assert out["sam_frames"][1] is None
    assert "position_ids" not in out


def test_a_batch_of_nothing_or_of_mixed_kinds_is_refused(processor: Processor, sample: Sample, model: UniPixel) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        processor.collate([])
    apart, plain = (
        processor.build_training_inputs(sample, independent_turns=True),
        processor.build_training_inputs(sample),
    )
    with pytest.raises(ValueError, match="need the model's config"):
        collate([apart], pad_token_id=0)
    with pytest.raises(ValueError, match="all samples of a batch"):
        collate([apart, plain], pad_token_id=0, config=model.config)


@torch.no_grad()
def test_independent_turns_compute_what_each_turn_alone_would(
    processor: Processor, sample: Sample, model: UniPixel
) -> None:
    other = replace(sample, turns=TURNS[2:])
    pair = [processor.build_training_inputs(one, sam_masks=False, independent_turns=True) for one in (other, sample)]
    together = model(**processor.collate(pair, model.config))
    for row, one in enumerate((other, sample)):
        turn_ids, seg = pair[row]["turn_ids"], []
        for k, turn in enumerate(one.turns):
            single = processor.build_training_inputs(replace(one, turns=(turn,)), sam_masks=False)
            alone = model(**processor.collate([single]))
            picked = ((turn_ids == 0) | (turn_ids == k + 1)).nonzero().flatten()
            assert pair[row]["input_ids"][picked].tolist() == single["input_ids"].tolist()
            torch.testing.assert_close(together.hidden[row, picked], alone.hidden[0], atol=1e-5, rtol=1e-4)
            seg.append(alone.seg_tokens[0])
        torch.testing.assert_close(together.seg_tokens[row], torch.cat(seg), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("still", [False, True])
def test_a_training_forward_equals_an_inference_forward(
    still: bool, processor: Processor, sample: Sample, model: UniPixel
) -> None:
    processor = Processor(processor.tokenizer, replace(processor.settings, still_frames=still))
    one = replace(sample, turns=TURNS[:2])
    trained = model(**processor.collate([processor.build_training_inputs(one, sam_masks=False)]))

    visual = processor.build_visual(one.media)
    vision = model.encode_vision(visual.pixel_values, visual.grid_thw)
    first = processor.build_first_turn(TURNS[0], visual, one.objects)
    later = processor.build_next_turn(TURNS[1], visual, one.objects)
    ids = torch.tensor(
        [
            *first.input_ids.tolist(),
            *processor.chat.encode_answer(TURNS[0].answer),
            *later.input_ids.tolist(),
            *processor.chat.encode_answer(TURNS[1].answer),
        ]
    )[None]
    ref = model.encode_points(first.point_coords, first.point_labels, first.point_frames, visual.num_frames)
    embeds = model.embed(ids, vision.merged, ref, model.pool_regions(vision, [later.region_masks]))
    positions, _ = model.compute_rope_index(ids, None, visual.grid_thw, visual.second_per_grid)
    torch.testing.assert_close(model.decode(embeds, positions), trained.hidden, atol=1e-5, rtol=1e-4)


TALK = (Turn(question="What is the dog?", answer="It is the dog."), Turn(question="Where?", answer="On the red apple."))


def talk(processor: Processor, media: Media | None, **more: Any) -> Any:
    return processor.build_training_inputs(Sample(media=media, turns=TALK, source="talk", **more))


@torch.no_grad()
def test_a_picture_written_as_an_image_is_computed_as_a_video_of_one_frame(
    processor: Processor, clip: Media, model: UniPixel
) -> None:
    still = clip.select([1])
    image, video = talk(processor, still, as_image=True), talk(processor, still)
    pads = [processor.chat.ids[pad] for pad in ("<|image_pad|>", "<|video_pad|>")]
    assert torch.equal(torch.where(image["input_ids"] == pads[0], pads[1], image["input_ids"]), video["input_ids"])
    assert pads[1] not in image["input_ids"] and torch.equal(image["pixel_values"], video["pixel_values"])
    batches = [processor.collate([one]) for one in (image, video)]
    assert batches[0]["pixel_values"] is None and batches[1]["image_pixel_values"] is None
    found, expected = (model(**batch) for batch in batches)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_pictures_videos_and_words_in_one_batch_are_each_computed_as_if_alone(
    processor: Processor, clip: Media, sample: Sample, model: UniPixel
) -> None:
    other = Media.from_array(np.full((1, 40, 60, 3), 200, dtype=np.uint8))
    samples = [
        talk(processor, clip.select([0]), as_image=True),
        processor.build_training_inputs(sample, sam_masks=False),
        talk(processor, None),
        talk(processor, other, as_image=True),
        talk(processor, clip),
    ]
    together = model(**processor.collate(samples))
    for row, one in enumerate(samples):
        alone = model(**processor.collate([one]))
        length = len(one["input_ids"])
        torch.testing.assert_close(together.hidden[row, :length], alone.hidden[0], atol=1e-5, rtol=1e-4)


def test_words_alone_are_a_conversation_without_a_visual(processor: Processor) -> None:
    made = talk(processor, None)
    learnt = made["labels"] != -100
    assert processor.tokenizer.decode(made["input_ids"]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat is the dog?<|im_end|>\n<|im_start|>assistant\nIt is the dog.<|im_end|>\n"
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\nOn the red apple.<|im_end|>"
    )
    assert processor.tokenizer.decode(made["labels"][learnt]) == "It is the dog.<|im_end|>On the red apple.<|im_end|>"
    assert made["target_masks"] is None and not len(made["pixel_values"])


def test_what_words_alone_or_an_image_cannot_have_is_refused(processor: Processor, clip: Media) -> None:
    pointed = Turn(question="What is [1] <|ref|>?", answer="x", references=((Point(1, 1),),))
    with pytest.raises(DatasetError, match="nothing: a turn has points, regions or masks, but the sample has no pict"):
        processor.build_training_inputs(Sample(turns=(pointed,), source="nothing"))
    with pytest.raises(DatasetError, match="independent turns share a visual"):
        processor.build_training_inputs(Sample(turns=TALK), independent_turns=True)
    with pytest.raises(DatasetError, match="3 frames; one can be written as an image"):
        talk(processor, clip, as_image=True)


def test_a_timed_clip_tells_its_seconds_and_has_one_frame_s_share_of_the_budget(tokenizer: Any) -> None:
    shared = Processor(tokenizer, ImageSettings(min_pixels=4500, max_pixels=20000, budget_frames=8, sam_size=64))
    clip = Media.from_array(np.zeros((3, 200, 300, 3), dtype=np.uint8))
    timed, plain = talk(shared, clip, fps=0.8), talk(shared, clip)
    assert timed["second_per_grid"].tolist() == [2.5] and plain["second_per_grid"].tolist() == [1.0]
    rows, columns = timed["grid_thw"][0, 1:].tolist()
    assert rows * columns * 14**2 <= 20000 < plain["grid_thw"][0, 1:].prod() * 14**2


def test_frames_resized_as_tensors_differ_from_pillow_s_by_little() -> None:
    frame = np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for size in ((28, 56), (112, 84)):
        ours, pillow = (resize_frame(frame, size, rule).astype(int) for rule in ("tensor", "pillow"))
        assert ours.shape == pillow.shape == (*size, 3)
        assert 0 < np.abs(ours - pillow).mean() < 0.5
    assert resize_frame(frame, (50, 70), "tensor") is frame
    with pytest.raises(CheckpointError, match="frame_resize is 'other'"):
        ImageSettings(frame_resize="other")
