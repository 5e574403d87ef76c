"""How replies become measures, and where the original's way differs: hand-made cases."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from worlds import FRAMES, SIZE_HW, choices, expressions, media, read, record, square

from unipixel.engine.memory import KnownObject
from unipixel.errors import DatasetError
from unipixel.eval.choices import Choices, summarize_accuracy
from unipixel.eval.expression_masks import (
    ClassicDavis,
    Davis,
    ImageMasks,
    ReasoningMasks,
    ReferringMasks,
    Revos,
    VideoMasks,
)
from unipixel.eval.pixelqa import PRIMER, PixelQA, choose_original_kinds, renumber_from_one
from unipixel.eval.protocols import (
    BenchmarkProtocol,
    Prediction,
    Question,
    select_frames,
    spread_frames,
)
from unipixel.masks import MaskTrack
from unipixel.media import Media
from unipixel.processing import ImageSettings
from unipixel.sample import Box, Point, Query, Sample


def found(*tracks: MaskTrack, text: str = "") -> Prediction:
    scored = [
        KnownObject(id=n, label="", track=track, frame_scores=(1.0 - 0.1 * n,) * track.num_frames)
        for n, track in enumerate(tracks, start=1)
    ]
    return Prediction(text, tuple(scored))


def asked(protocol: BenchmarkProtocol, number: int = 0, records: list | None = None, num_frames: int = 16) -> Question:
    unit = protocol.group_records(records or expressions())[number]
    return protocol.build_questions(unit, read, num_frames)[0]


def figures(protocol: BenchmarkProtocol, measures: list) -> dict[str, float]:
    return {one.name: one.value for one in protocol.summarize(measures)}


# videos


def test_all_objects_of_a_reply_count_and_only_the_first_in_the_original() -> None:
    truth = square(2, 4)
    left, right = (np.zeros((FRAMES, *SIZE_HW), dtype=bool) for _ in range(2))
    left[:, :, :9], right[:, :, 9:] = truth.masks[:, :, :9], truth.masks[:, :, 9:]
    reply = found(MaskTrack.from_masks(left), MaskTrack.from_masks(right))
    question = asked(VideoMasks())
    assert VideoMasks().score(question, reply)["J"] == 1.0
    first = VideoMasks(original=True).score(question, reply)["J"]
    assert first == pytest.approx(np.mean([left[t].sum() / truth.areas[t] for t in range(FRAMES)]))


def test_an_error_is_zero_and_in_the_original_an_empty_mask() -> None:
    question = asked(VideoMasks(), 1)  # hidden on the last two of six frames
    assert VideoMasks().score_failed_unit([question])[0]["J"] == 0.0
    assert VideoMasks(original=True).score_failed_unit([question])[0]["J"] == pytest.approx(2 / 6)
    assert VideoMasks(original=True).score_failed_unit([])[0]["J"] == 0.0


def test_masks_of_another_size_or_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"predicted masks are 2 frames of \(24, 32\), the clip has 6"):
        VideoMasks().score(asked(VideoMasks()), found(square(1, 1, frames=2)))


def test_revos_averages_its_groups_and_leaves_out_what_is_not_there() -> None:
    def row(category: str, value: float) -> dict:
        return {"J": value, "F": value, "J&F": value, "A": 1.0, "R": value, "category": category}

    measures = [row("referring", 1.0), row("referring", 0.5), row("reasoning", 0.25), row("no object", 0.0)]
    table = figures(Revos(), measures)
    assert (table["referring J&F"], table["reasoning J&F"], table["J&F"]) == (75.0, 25.0, 50.0)
    assert Revos().list_notes(measures) == ["expressions of things that are not there, in no average: 1"]
    assert figures(Revos(), [row("no object", 1.0)]) == {}


def test_revos_accuracy_and_robustness_are_binarised_and_not_in_the_original() -> None:
    question, truth = asked(Revos()), square(2, 4)
    spill = found(MaskTrack.from_masks(truth.masks | square(2, 5).masks))  # one row of 8 below the target
    correct, original = (Revos(original=o).score(question, spill) for o in (False, True))
    foreground = question.sample.areas["foreground"].areas
    assert correct["R"] == pytest.approx(np.mean(1 - 8 / foreground))
    assert original["R"] == 0.0
    assert correct["A"] == pytest.approx(1 - 8 / (24 * 32))
    assert original["A"] == pytest.approx(1 - 72 / (24 * 32))
    assert correct["J"] == original["J"]


def test_revos_needs_its_foreground() -> None:
    question = asked(Revos())
    bare = replace(question, sample=replace(question.sample, areas={}))
    with pytest.raises(DatasetError, match="no foreground mask"):
        Revos().score(bare, found())


def eleven() -> list:
    """One video with expressions 0 to 10, each a square of its own."""

    def make(number: int) -> Callable[[], Sample]:
        query = Query(kind="query", text=str(number), targets=(1,))
        objects = {1: square(number, number)}
        return lambda: Sample(media=media(), objects=objects, queries=(query,), source=f"v/{number}")

    return [record(f"v/{number}", make(number)) for number in range(11)]


def test_the_original_ref_davis_numbers_expressions_as_strings() -> None:
    records = eleven()
    own, strings = (Davis(original=o).group_records(records) for o in (False, True))
    assert [unit.truths for unit in own] == [()] * 11
    # sorted as strings: 0, 1, 10, 2, ...; the third mask of the file is that of expression 2
    assert [unit.truths[0].id for unit in strings] == [f"v/{n}" for n in (0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 2)]
    perfect = found(square(10, 10))
    assert Davis().score(asked(Davis(), 10, records), perfect)["J"] == 1.0
    question = asked(Davis(original=True), 10, records)
    assert question.text == asked(Davis(), 10, records).text
    assert Davis(original=True).score(question, perfect)["J"] < 0.2
    assert Davis(original=True).score(question, found(square(2, 2)))["J"] == 1.0


def test_the_original_ref_davis_says_when_its_numbering_meets_another_video() -> None:
    records = [*eleven()[:2], *expressions(1)]  # "v" stands before "v0" both ways
    records.reverse()
    with pytest.raises(DatasetError, match="which is another video"):
        asked(Davis(original=True), 0, records)


def passes(objects: int = 2) -> list:
    def make(number: int) -> Callable[[], Sample]:
        query = Query(kind="query", text=str(number), targets=(1,))
        track = square(2 + 12 * (number // 4), 4)
        return lambda: Sample(media=media(), objects={1: track}, queries=(query,), source=f"v/{number}")

    return [record(f"v/{number}", make(number)) for number in range(4 * objects)]


def test_the_classic_protocol_lets_objects_compete_and_averages_four_passes() -> None:
    protocol, records = ClassicDavis(), passes()
    (unit,) = protocol.group_records(records)
    questions = protocol.build_questions(unit, read, 16)
    own = [square(2, 4), square(14, 4)]
    replies = [found(own[n // 4]) for n in range(8)]
    assert figures(protocol, protocol.score_unit(questions, replies)) == {"J": 100.0, "F": 100.0, "J&F": 100.0}
    # in the first pass both expressions find the first object; the surer one keeps it
    sure, unsure = replies[0], Prediction("", (replace(replies[0].objects[0], frame_scores=(0.1,) * FRAMES),))
    measures = protocol.score_unit(questions, [sure, *replies[1:4], unsure, *replies[5:]])
    assert [(m["pass"], m["J"]) for m in measures[:3]] == [(0, 1.0), (0, 0.0), (1, 1.0)]
    assert figures(protocol, measures)["J"] == pytest.approx(100 * (0.5 + 3) / 4)
    measures = protocol.score_unit(questions, [unsure, *replies[1:4], sure, *replies[5:]])
    assert [m["J"] for m in measures[:2]] == [0.0, 0.0]


def test_the_classic_protocol_refuses_other_numbers_of_expressions() -> None:
    with pytest.raises(DatasetError, match="needs four expressions per object"):
        ClassicDavis().group_records(passes()[:6])


def test_the_classic_protocol_counts_a_failed_video_by_its_objects() -> None:
    protocol = ClassicDavis()
    (unit,) = protocol.group_records(passes())
    failed = protocol.score_failed_unit(protocol.build_questions(unit, read, 16))
    assert len(failed) == 8 and figures(protocol, failed)["J&F"] == 0.0
    assert len(protocol.score_failed_unit([])) == 4


# pictures


def picture(target: MaskTrack, ignore: MaskTrack | None = None, box: tuple | None = None) -> Question:
    query = Query(kind="query", text="a thing", targets=(1,))
    areas = {} if ignore is None else {"ignore": ignore}
    boxes = {} if box is None else {1: box}
    sample = Sample(media=media(1), objects={1: target}, areas=areas, boxes=boxes, queries=(query,), source="p")
    return asked(ImageMasks() if box is None else ReferringMasks(), records=[record("p/0", lambda: sample, 1)])


def test_ignored_pixels_count_nowhere_and_are_background_in_the_original() -> None:
    question = picture(square(2, 2, 1), ignore=square(10, 2, 1))
    both = found(MaskTrack.from_masks(square(2, 2, 1).masks | square(10, 2, 1).masks))
    assert ImageMasks().score(question, both) == {"intersection": 64, "union": 64}
    assert ImageMasks(original=True).score(question, both) == {"intersection": 64, "union": 128}


def test_small_and_large_targets_weigh_alike_in_the_mean_and_by_area_in_ciou() -> None:
    measures = [{"intersection": 10, "union": 10}, {"intersection": 0, "union": 90}]
    table = figures(ReasoningMasks(), measures)
    assert (table["gIoU"], table["cIoU"], table["Prec@0.5"]) == (50.0, 10.0, 50.0)


def test_a_failed_picture_keeps_its_target_in_the_union() -> None:
    question = picture(square(2, 2, 1), box=(2, 2, 10, 10))
    assert ReferringMasks().score_failed_unit([question]) == [{"intersection": 0, "union": 64, "hit": False}]
    assert ImageMasks().score_failed_unit([]) == [{"intersection": 0, "union": 1}]


def test_boxes_are_compared_with_the_annotated_ones() -> None:
    question = picture(square(2, 2, 1), box=(2, 2, 10, 10))
    protocol = ReferringMasks()
    assert protocol.score(question, found(square(2, 2, 1)))["hit"]
    assert not protocol.score(question, found(square(9, 2, 1)))["hit"]
    assert not protocol.score(question, found())["hit"]
    sample = replace(question.sample, boxes={})
    with pytest.raises(DatasetError, match="no annotated box"):
        asked(protocol, records=[record("p/0", lambda: sample, 1)])


# choices


def test_a_primed_answer_is_read_by_its_first_word() -> None:
    protocol = Choices(style="videorefer", regions="multiple")
    question = asked(protocol, records=choices())
    assert question.prime == PRIMER
    assert question.text.endswith("\n(D) it leaves\nPlease only give the best option.")
    assert protocol.score(question, Prediction("B) nothing"))["letter"] == "b"
    assert protocol.score(question, Prediction("perhaps"))["letter"] is None


def test_a_single_frame_question_gives_the_masks_of_that_frame_alone() -> None:
    single, multiple = (
        asked(Choices(style="videorefer", regions=regions), records=choices(), num_frames=3)
        for regions in ("single", "multiple")
    )
    assert single.regions == multiple.regions == (0, 3)
    assert single.sample.media.num_frames == 3
    assert single.query.frame is not None
    assert [rle is not None for rle in single.sample.objects[3].rles] == [t == single.query.frame for t in range(3)]
    assert all(rle is not None for rle in multiple.sample.objects[3].rles)


def test_unreadable_replies_are_counted_and_wrong_and_failures_not_called_unreadable() -> None:
    protocol = Choices(style="mvbench", mean_of_categories=True)
    records = choices()
    questions = [asked(protocol, n, records) for n in range(3)]
    measures = [
        protocol.score(questions[0], Prediction("b")),  # right, Basic
        protocol.score(questions[1], Prediction("?")),  # unreadable, Future
        protocol.score_failed_unit([questions[2]])[0],  # failed, Basic
    ]
    assert protocol.list_notes(measures) == ["replies that name no valid option, counted as wrong: 1"]
    table = figures(protocol, measures)
    assert table == {"accuracy": 25.0, "Basic Questions": 50.0, "Future Predictions": 0.0}
    assert summarize_accuracy(measures)[0].value == pytest.approx(100 / 3)


# frames


def test_frames_are_spread_evenly_and_keep_the_one_that_counts() -> None:
    assert spread_frames(5, 16) == [0, 1, 2, 3, 4]
    assert spread_frames(32, 4) == [0, 10, 21, 31]
    assert spread_frames(32, 4, keep=12) == [0, 12, 21, 31]
    assert spread_frames(32, 4, keep=31) == [0, 10, 21, 31]
    assert spread_frames(9, 1) == [0] and spread_frames(9, 1, keep=7) == [7]


def test_a_narrowed_sample_keeps_masks_and_frames_together() -> None:
    sample = select_frames(read(choices()[0]), [0, 2, 5])
    assert sample.media.num_frames == sample.objects[0].num_frames == 3
    assert sample.queries[0].frame == 1
    assert sample.objects[0].rles[1] == square(1, 1).rles[2]


# PixelQA


def pixel_question(original: bool = False, prompts: str = "mixed", number: int = 0) -> Question:
    return asked(PixelQA(prompts=prompts, original=original), number, choices())


def test_pixelqa_lets_the_model_write_its_own_prefilling_and_the_original_forces_it() -> None:
    free, forced = pixel_question(), pixel_question(original=True)
    assert (free.forced, free.as_written, free.prime) == (False, False, "")
    assert (forced.as_written, forced.prime) == (True, PRIMER)
    between = asked(PixelQA(prompts="point", forced=True), records=choices())
    assert (between.forced, between.as_written, between.prime) == (True, False, "")


def test_pixelqa_counts_objects_from_one_in_texts_and_masks() -> None:
    question = pixel_question()
    assert question.text.startswith("What does [1] do to [4]?\nOptions:\n(A) it pushes [4]")
    assert question.prefill.endswith("(D) it leaves Please localize the relevant objects with IDs.")
    assert question.query.about == (1, 4) and set(question.sample.objects) == {1, 4}
    untouched = read(choices()[0])
    untouched = replace(untouched, queries=(replace(untouched.queries[0], about=(3,)),))
    assert renumber_from_one(untouched) is untouched


def test_pixelqa_points_at_the_inside_of_an_object_and_boxes_touch_its_edges() -> None:
    (first, second) = pixel_question(prompts="point").prompts
    assert isinstance(first, Point) and first.frame == 2 and first.object_id == 1
    assert square(1, 1).mask(2)[int(first.y), int(first.x)]
    (first, second) = pixel_question(prompts="box").prompts
    assert second == Box(16.0, 10.0, 24.0, 18.0, frame=2, object_id=4)


def test_pixelqa_mixes_points_and_boxes_half_and_half_and_always_the_same_way() -> None:
    kinds = [{type(p) for p in pixel_question(number=n).prompts} for n in range(4)]
    assert kinds == [{Point, Box}] * 4
    again = [pixel_question(number=n).prompts for n in range(4)]
    assert again == [pixel_question(number=n).prompts for n in range(4)]
    assert len({type(prompts[0]) for prompts in again}) == 2  # which one gets the point is drawn


def test_pixelqa_scores_volumes_of_every_object_and_reads_unprimed_replies() -> None:
    question = pixel_question()
    half = np.zeros((FRAMES, *SIZE_HW), dtype=bool)
    half[:3] = square(1, 1).masks[:3]
    reply = found(MaskTrack.from_masks(half), text="The answer is (B).")
    protocol = PixelQA(prompts="mixed")
    measures = protocol.score(question, reply)
    assert measures["letter"] == "b"
    assert measures["J"] == [0.5, 0.0] and measures["F"] == pytest.approx([2 / 3, 0.0])
    assert figures(protocol, [measures])["J&F"] == pytest.approx(100 * (0.25 + 1 / 3) / 2)
    assert "objects without a pixel in common with their mask: 1" in protocol.list_notes([measures])
    assert protocol.score_failed_unit([question])[0]["J"] == [0.0, 0.0]


def test_pixelqa_reports_frames_too_but_not_in_the_original() -> None:
    question, protocol = pixel_question(), PixelQA(prompts="mixed")
    half = np.zeros((FRAMES, *SIZE_HW), dtype=bool)
    half[:3] = square(1, 1).masks[:3]
    measures = protocol.score(question, found(MaskTrack.from_masks(half), text="(B)"))
    assert measures["J of frames"] == [0.5, 0.0] and measures["boundary F"] == [0.5, 0.0]
    assert figures(protocol, [measures])["J&F of frames"] == 25.0
    original = PixelQA(prompts="mixed", original=True)
    told = figures(original, [original.score(pixel_question(original=True), Prediction("B"))])
    assert "J of frames" not in told and told["accuracy"] == 100.0


def test_the_original_pixelqa_points_on_a_grid_of_768_pixels_and_at_nothing_where_nothing_is() -> None:
    records = choices()
    sample = read(records[0])
    hidden = replace(sample, objects={0: sample.objects[0], 3: square(14, 10, hidden=[2])})
    records[0] = record("0", lambda: hidden)
    first, second = asked(PixelQA(prompts="box", original=True), records=records).prompts
    height, width = SIZE_HW
    # the square covers columns 3 to 10 of 32 and rows 1 to 8 of 24; half a source pixel around it is touched
    corners = [first.x1 * 768 / width, first.y1 * 768 / height, first.x2 * 768 / width, first.y2 * 768 / height]
    assert corners == pytest.approx([60, 16, 275, 303]) and first.frame == 2 and first.object_id == 0
    assert (second.x1, second.y1) == (width, height) and (second.x2, second.y2) == (-width / 768, -height / 768)
    first, second = asked(PixelQA(prompts="point", original=True), records=records).prompts
    # the deepest pixels are 108 from the sides; the first of them lies as far below the upper edge
    assert (first.x * 768 / width, first.y * 768 / height) == pytest.approx((60 + 107, 16 + 107))
    assert (second.x, second.y, second.frame) == (0, 0, 2)


def test_the_original_pixelqa_words_its_prefilling_with_the_ids_of_the_data() -> None:
    question = pixel_question(original=True)
    assert question.prefill.startswith("What does [0] <|ref|> do to [3] <|ref|>?\nOptions:\n(A) it pushes [3]\n")
    assert question.prefill.endswith("(D) it leaves. Please localize the relevant objects with IDs.")
    assert question.query.about == (0, 3)


def test_the_original_mix_draws_a_rounded_half_of_the_points() -> None:
    counts = {
        n: {choose_original_kinds("mixed", n, random.Random(seed)).count("point") for seed in range(20)}
        for n in range(1, 6)
    }
    assert counts == {1: {0, 1}, 2: {1}, 3: {2}, 4: {2}, 5: {2}}
    assert choose_original_kinds("box", 2, random.Random(0)) == ["box", "box"]


# whole videos


def film(total: int, fps: float | None) -> list:
    query = Query(kind="choice", text="When?", answer="A", options=("now", "then"))
    pixels = np.zeros((total, *SIZE_HW, 3), dtype=np.uint8)
    return [record("0", lambda: Sample(media=Media.from_array(pixels, fps), queries=(query,), source="film"), total)]


@pytest.mark.parametrize(
    ("total", "fps", "frames"),
    [
        (47, 12.0, [0, 9, 18, 28, 37, 46]),  # 7.8 at 2 per second, an even number of them
        (300, 10.0, 16),  # no more than 16
        (10, 10.0, 4),  # no fewer than 4
        (3, 10.0, [0, 2]),  # unless there are not so many
        (40, None, 40),  # all of a folder
    ],
)
def test_the_original_takes_even_numbers_of_frames_and_folders_whole(
    total: int, fps: float | None, frames: object
) -> None:
    protocol = Choices(style="mvbench", original=True)
    question = asked(protocol, records=film(total, fps))
    assert question.view is not None and question.all_frames and not question.view.share_budget
    own = list(question.sample.media.frame_indices)
    assert (own == frames) if isinstance(frames, list) else (len(own) == frames)
    if fps is None:
        assert question.view.fps == ImageSettings().fps and question.view.frame_resize == "pillow"
    else:
        assert question.view.fps == pytest.approx(len(own) / total * fps) and question.view.frame_resize == "tensor"
    assert asked(Choices(style="mvbench"), records=film(total, fps)).view is None


def test_the_original_cannot_read_a_file_of_one_frame() -> None:
    with pytest.raises(DatasetError, match="has 1 frame; the original takes two at least"):
        asked(Choices(style="mvbench", original=True), records=film(1, 10.0))


def test_replies_at_which_the_original_stops_are_wrong_and_counted_apart() -> None:
    protocol = Choices(style="mvbench", original=True)
    question = asked(protocol, records=choices())
    measures = [protocol.score(question, Prediction(text)) for text in ("", " b", "b", "?")]
    assert [m["letter"] for m in measures] == [None, None, "b", None]
    assert protocol.list_notes(measures) == [
        "replies that name no valid option, counted as wrong: 1",
        "replies that are empty or begin with a blank, at which the original's scorer stops, counted as wrong: 2",
    ]
    assert Choices(style="mvbench").score(question, Prediction(" b"))["letter"] == "b"
