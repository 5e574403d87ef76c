"""Questions and answers: true, unambiguous, well formed, and in a small vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from unipixel.sample import Box, Point, Turn
from unipixel.stickers import (
    EVAL_SEED,
    FULL_MIX,
    TASKS,
    THINGS,
    Facts,
    Scene,
    generate_scene,
    generate_turns,
    generate_video,
    list_vocabulary_texts,
)
from unipixel.stickers.choice_tasks import list_answers
from unipixel.stickers.colours import COLOURS
from unipixel.stickers.language import NUMBERS, PLACES
from unipixel.stickers.things import KINDS

STILLS = [generate_scene(11, index) for index in range(70)]
CLIPS = [generate_video(11, index) for index in range(25)]


def asked(task: str, scenes: list[Scene] = STILLS, count: int = 4) -> Iterator[tuple[Scene, Turn]]:
    for made in scenes:
        for turn in generate_turns(made, np.random.default_rng(made.index), count, {task: 1.0}):
            yield made, turn


def words(text: str) -> list[str]:
    return re.findall(r"<\|\w+\|>|<\d+>|\[\d+\]|\(\w\)|\w+|[^\w\s]", text)


def names_of(made: Scene) -> list[str]:
    return [item.thing.name for item in made.objects]


def noun_of(turn: Turn) -> str:
    """The phrase asked for, between "the" and the end of the wording."""
    found = re.search(r"the (.+?)(?: in this (?:image|video))?[.?]", turn.question)
    assert found is not None, turn.question
    return found[1]


def object_of(made: Scene, number: int | None) -> int:
    return [item.id for item in made.objects].index(number or 0)


def centre(mask: np.ndarray) -> tuple[float, float]:
    ys, xs = np.nonzero(mask)
    return float(xs.mean() + 0.5) / mask.shape[1], float(ys.mean() + 0.5) / mask.shape[0]


@pytest.mark.parametrize("scenes", [STILLS, CLIPS], ids=["stills", "clips"])
def test_every_turn_has_a_prompt_per_ref_a_target_per_seg_and_known_ids(scenes: list[Scene]) -> None:
    for made in scenes:
        ids = {item.id for item in made.objects}
        for turn in generate_turns(made, np.random.default_rng(made.index), 10):
            assert turn.task in TASKS
            assert turn.question.count("<|ref|>") == len(turn.references)
            assert turn.answer.count("<|seg|>") == len(turn.targets)
            assert "<|seg|>" not in turn.question and "<|ref|>" not in turn.answer
            assert set(turn.targets) | set(turn.regions) <= ids
            mentioned = {int(number) for number in re.findall(r"\[(\d)\]", turn.question)}
            assert set(turn.regions) <= mentioned <= ids


def test_all_tasks_find_questions_in_stills_or_clips() -> None:
    for task in TASKS:
        assert any(True for _ in asked(task, STILLS + CLIPS)), task


def test_the_noun_is_the_last_word_before_every_mask() -> None:
    for task in ("refer", "refer_many", "position", "colour", "relation", "order", "size", "category", "use", "motion"):
        for made, turn in asked(task, STILLS[:30] + CLIPS):
            before = re.findall(r"(\w+)<\|seg\|>", turn.answer)
            assert before == [made.objects[object_of(made, target)].thing.name for target in turn.targets]


def test_a_named_thing_is_the_only_one_of_that_name_or_that_colour() -> None:
    for made, turn in asked("refer"):
        noun = (
            noun_of(turn)
            if " is the " not in turn.question
            else re.findall(r"is the (.+?)[?] ", turn.question + " ")[0]
        )
        noun = noun.removesuffix(" in this image")
        *colour, name = noun.split()
        same = [n for n, other in enumerate(names_of(made)) if other == name]
        target = object_of(made, turn.targets[0])
        assert target in same
        assert turn.answer == f"the {noun}<|seg|>"
        if not colour:
            assert len(same) == 1
        for n in same:
            share = made.colours[n][COLOURS.index(colour[0])] if colour else 1.0
            assert share >= 0.5 if n == target else share <= 0.15


def test_claimed_red_green_and_blue_things_have_that_channel_on_top() -> None:
    checked = 0
    for made, turn in asked("colour_of"):
        if turn.answer not in ("red", "green", "blue") or not turn.regions:
            continue
        pixels = made.image[made.masks[object_of(made, turn.regions[0]), 0]].astype(int)
        channel = ("red", "green", "blue").index(turn.answer)
        others = np.delete(pixels, channel, axis=1).max(1)
        assert (pixels[:, channel] > others).mean() > 0.5
        checked += 1
    assert checked > 5


def test_places_agree_with_the_masks() -> None:
    sides = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
    for made, turn in asked("where"):
        assert turn.answer in PLACES.values()
        named = re.fullmatch(r"Where (?:is|are) the (\w+)\?", turn.question)
        if not turn.regions and not named:
            continue
        n = object_of(made, turn.regions[0]) if turn.regions else names_of(made).index(named[1])
        spot = centre(made.masks[n, 0])
        for side, (axis, direction) in sides.items():
            beyond = spot[axis] < 0.36 if direction < 0 else spot[axis] > 0.64
            assert beyond == (side in turn.answer.split())


def test_the_thing_on_a_side_is_alone_there() -> None:
    for made, turn in asked("position"):
        phrase = turn.question
        target = object_of(made, turn.targets[0])
        if "thing on the left" in phrase:
            xs = [centre(mask[0])[0] for mask in made.masks]
            assert xs[target] < 0.36 and all(x > 0.4 for n, x in enumerate(xs) if n != target)
        if "thing at the bottom" in phrase:
            ys = [centre(mask[0])[1] for mask in made.masks]
            assert ys[target] > 0.64 and all(y < 0.6 for n, y in enumerate(ys) if n != target)


def test_largest_and_smallest_agree_with_the_areas() -> None:
    for made, turn in asked("size"):
        areas = made.areas[:, 0]
        target = object_of(made, turn.targets[0])
        name = names_of(made)[target]
        among = (
            range(len(areas)) if " thing" in turn.question else [n for n, o in enumerate(names_of(made)) if o == name]
        )
        ranked = sorted(areas[n] for n in among)
        assert areas[target] == (ranked[-1] if "largest" in turn.question else ranked[0])


def test_order_agrees_with_the_centres() -> None:
    for made, turn in asked("order"):
        found = re.search(r"(first|second|third) (\w+) from the (\w+)", turn.question)
        assert found is not None
        rank = ("first", "second", "third").index(found[1])
        among = [n for n, name in enumerate(names_of(made)) if found[2] in ("thing", name)]
        axis = 0 if found[3] in ("left", "right") else 1
        order = sorted(among, key=lambda n: centre(made.masks[n, 0])[axis], reverse=found[3] in ("right", "bottom"))
        assert order[rank] == object_of(made, turn.targets[0])


def test_left_of_and_above_agree_with_the_centres() -> None:
    for made, turn in asked("relation"):
        found = re.search(r"the (\w+) (left of|right of|above|below) the (\w+)", turn.question)
        if found is None:
            continue
        anchor = centre(made.masks[names_of(made).index(found[3]), 0])
        axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[found[2]]
        for n, name in enumerate(names_of(made)):
            if name == found[3] or found[1] not in ("thing", name):
                continue
            step = (centre(made.masks[n, 0])[axis] - anchor[axis]) * sign
            assert step > 0.09 if n == object_of(made, turn.targets[0]) else step < 0.03


def test_kinds_are_unique_in_the_table_whenever_they_are_asked_for() -> None:
    for made, turn in asked("category", STILLS + CLIPS):
        kind = next(word for word in words(turn.question) if word in KINDS)
        sure = [n for n, item in enumerate(made.objects) if kind in item.thing.kinds]
        assert sure == [object_of(made, turn.targets[0])]
        assert not any(kind in item.thing.maybe_kinds for item in made.objects)


def test_counts_agree_with_the_objects() -> None:
    for made, turn in asked("count", STILLS + CLIPS):
        found = re.fullmatch(r"How many (\w+) are there\?", turn.question)
        assert found is not None
        names = [item.thing.plural for item in made.objects]
        kinds = {plural: kind for kind, plural in KINDS.items()}
        expected = names.count(found[1])
        if found[1] == "things":
            expected = len(names)
        elif found[1] in kinds:
            expected = sum(kinds[found[1]] in item.thing.kinds for item in made.objects)
        assert turn.answer == NUMBERS[expected]


def test_what_is_absent_is_really_not_there() -> None:
    for made, turn in asked("absent", STILLS + CLIPS):
        assert turn.targets == ()
        found = re.fullmatch(r"the (.+) (?:is|are) not there\.", turn.answer)
        assert found is not None
        *colour, noun = found[1].split()
        for n, item in enumerate(made.objects):
            fits = noun == item.thing.name or noun in item.thing.kinds | item.thing.maybe_kinds
            assert not fits or (colour and made.colours[n][COLOURS.index(colour[0])] <= 0.15)


def test_presence_is_yes_about_as_often_as_no_and_true() -> None:
    answers = []
    for made, turn in asked("presence"):
        noun = words(turn.question)[words(turn.question).index("in") - 1]
        assert (turn.answer == "yes") == (noun in names_of(made))
        answers.append(turn.answer)
    assert 0.3 < answers.count("yes") / len(answers) < 0.7


def test_captions_name_every_object() -> None:
    for made, turn in asked("caption", count=1):
        for item in made.objects:
            assert {item.thing.name, item.thing.plural} & set(words(turn.answer))


def test_choices_about_names_and_colours_point_at_the_true_option() -> None:
    letters = set()
    for made, turn in asked("choice", STILLS + CLIPS):
        options = dict(re.findall(r"\n\((\w)\) (.+)", turn.question))
        assert turn.question.endswith("\nPlease only give the best option.")
        assert len(options) == len(set(options.values())) >= 2
        assert turn.answer in (allowed := list_answers(turn.question)) and len(allowed) == len(options)
        letter = turn.answer[-2]
        assert turn.answer == f"the best option is {options[letter]} ({letter})"
        letters.add(letter)
        target = object_of(made, turn.regions[0])
        if turn.question.startswith("What colour is"):
            assert options[letter] == made.get_colour(target)
        elif turn.question.startswith("What is [") and "thing" not in options[letter]:
            assert options[letter] == names_of(made)[target]
        elif (found := re.match(r"Which one is the (\w+),", turn.question)) and found[1] in THINGS:
            assert names_of(made)[object_of(made, int(options[letter][1]))] == found[1]
    assert letters == set("ABCD")


def test_the_memory_form_localises_first_and_then_answers_over_the_same_ids() -> None:
    for made in STILLS[:30]:
        first, second = generate_turns(made, np.random.default_rng(0), 2, {"choice_mem": 1.0})
        assert first.task == "choice_mem" and second.task == "choice"
        assert first.answer == " ".join(f"[{number}]<|seg|>" for number in first.targets)
        assert second.regions == first.targets
        assert first.question.endswith("Please localize the relevant objects with IDs.")
        assert [int(number) for number in re.findall(r"\[(\d)\] <\|ref\|>", first.question)] == list(first.targets)


@pytest.mark.parametrize("scenes", [STILLS, CLIPS], ids=["stills", "clips"])
def test_prompts_lie_on_a_frame_that_shows_the_object(scenes: list[Scene]) -> None:
    for task in ("point", "box"):
        for made, turn in asked(task, scenes, count=2):
            for prompts, target in zip(turn.references, turn.targets, strict=True):
                (prompt,) = prompts
                mask = made.masks[object_of(made, target), prompt.frame]
                if isinstance(prompt, Point):
                    assert mask[int(prompt.y), int(prompt.x)]
                else:
                    inside = mask[int(prompt.y1) : int(np.ceil(prompt.y2)), int(prompt.x1) : int(np.ceil(prompt.x2))]
                    assert inside.sum() > 0.6 * mask.sum()


def test_evaluation_uses_one_wording_exact_boxes_and_interior_points() -> None:
    for index in range(12):
        made = generate_scene(EVAL_SEED, index)
        assert made.is_held_out
        for turn in generate_turns(made, np.random.default_rng(0), 6, {"box": 1.0, "point": 1.0, "refer": 1.0}):
            assert turn.question.startswith("Please segment ")
            assert len(turn.targets) == 1
            mask = made.masks[object_of(made, turn.targets[0]), 0]
            ys, xs = np.nonzero(mask)
            for (prompt,) in turn.references:
                if isinstance(prompt, Box):
                    assert (prompt.x1, prompt.y1) == (xs.min(), ys.min())
                    assert (prompt.x2, prompt.y2) == (xs.max() + 1, ys.max() + 1)
                else:
                    assert mask[int(prompt.y), int(prompt.x)]


def test_every_generated_word_is_in_the_vocabulary_and_the_vocabulary_is_small() -> None:
    known = {word for text in list_vocabulary_texts() for word in words(text)}
    for made in STILLS + CLIPS:
        for turn in generate_turns(made, np.random.default_rng(5), 12):
            unknown = set(words(f"{turn.question} {turn.answer}")) - known
            assert not unknown, (unknown, turn)
    assert len({word.lower() for word in known if word.isalpha()}) < 700


def test_the_same_generator_state_gives_the_same_turns() -> None:
    for made in STILLS[:10]:
        first = generate_turns(made, np.random.default_rng(3), 8)
        assert first == generate_turns(made, np.random.default_rng(3), 8)
        assert first == generate_turns(made, np.random.default_rng(3), 8, facts=Facts(made))


def test_a_mix_chooses_the_tasks() -> None:
    only = {
        turn.task
        for made in STILLS[:20]
        for turn in generate_turns(made, np.random.default_rng(1), 5, {"point": 1, "name": 2})
    }
    assert only == {"point", "name"}
    assert set(FULL_MIX) == set(TASKS)


@pytest.mark.parametrize("mix", [{"telepathy": 1.0}, {"refer": 0.0}, {}, {"refer": -1.0, "point": 2.0}])
def test_a_wrong_mix_is_refused(mix: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="the mix has"):
        generate_turns(STILLS[0], np.random.default_rng(0), 2, mix)
