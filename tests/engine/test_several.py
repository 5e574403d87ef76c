"""Requests for several things: taken apart where that is plain, and answered thing by thing as one answer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unipixel
from unipixel.engine.answer import Answer, MaskPiece
from unipixel.engine.engine import Engine, load
from unipixel.engine.generation import DecodingOptions, Reply
from unipixel.engine.request_parser import MAX_INSTANCES, split_request, write_as_sentence
from unipixel.engine.session import Session
from unipixel.errors import PromptError
from unipixel.processing import Processor
from unipixel.processing.regions import build_region_masks
from unipixel.sample import Point, Turn
from unipixel.stickers import EVAL_SEED, SceneSettings, generate_scene

EXAMPLES = Path(unipixel.__file__).parent / "examples"
Clips = Callable[..., np.ndarray]
SHORT: dict[str, Any] = {"max_new_tokens": 16}
TWO = "Please segment the dog and the ball."


@pytest.mark.parametrize(
    ("what", "things"),
    [
        ("the dog and the two cats", [("the dog", 1), ("the cat", 2)]),
        ("the dog, the cat and a bird", [("the dog", 1), ("the cat", 1), ("a bird", 1)]),
        ("the dog, and the cat", [("the dog", 1), ("the cat", 1)]),
        ("dog, cat, bird", [("dog", 1), ("cat", 1), ("bird", 1)]),
        ("the man and the woman who holds a cup", [("the man", 1), ("the woman who holds a cup", 1)]),
        ("the man and the woman who are sitting", [("the man who is sitting", 1), ("the woman who is sitting", 1)]),
        ("the dog and the person wearing a hat", [("the dog", 1), ("the person wearing a hat", 1)]),
        ("the dog on the left and the cat on the right", [("the dog on the left", 1), ("the cat on the right", 1)]),
        ("both the dog and the cat", [("the dog", 1), ("the cat", 1)]),
        ("both dogs", [("the dog", 2)]),
        ("one dog and 3 cats", [("one dog", 1), ("the cat", 3)]),
        ("three of the dogs", [("the dog", 3)]),
        ("a couple of dogs", [("the dog", 2)]),
        ("every red car", [("the red car", MAX_INSTANCES)]),
        ("all the people on the left", [("the person on the left", MAX_INSTANCES)]),
        ("all dogs that are running", [("the dog that is running", MAX_INSTANCES)]),
        ("the cats sleeping on the sofa", [("the cat sleeping on the sofa", MAX_INSTANCES)]),
        ("black and white cats", [("the black and white cat", MAX_INSTANCES)]),
        ("dogs and cats", [("the dog", MAX_INSTANCES), ("the cat", MAX_INSTANCES)]),
        ("all dogs and cats", [("the dog", MAX_INSTANCES), ("the cat", MAX_INSTANCES)]),
        ("every cup and saucer", [("the cup", MAX_INSTANCES), ("the saucer", MAX_INSTANCES)]),
        ("the knives, the leaves and the women", [(f"the {one}", MAX_INSTANCES) for one in ("knife", "leaf", "woman")]),
        ("the boxes, the buses, the houses and the cherries", [
            (f"the {one}", MAX_INSTANCES) for one in ("box", "bus", "house", "cherry")
        ]),
        ("all the sheep", [("the sheep", MAX_INSTANCES)]),
        ("two sheep and my cars", [("the sheep", 2), ("my car", MAX_INSTANCES)]),
    ],
)  # fmt: skip
def test_a_request_for_several_things_becomes_one_for_each(what: str, things: list[tuple[str, int]]) -> None:
    for request in ("Please segment {}.", "can you find {} in this video?", "Track {}"):
        wanted = split_request(request.format(what))
        assert list(wanted) == [(request.format(one), most) for one, most in things]


@pytest.mark.parametrize(
    "what",
    [
        "the dog",
        "the black and white cat",
        "the big, brown dog",
        "the man who holds a cup and a plate",
        "the man with the hat and the umbrella",
        "the person wearing a red shirt and the dog",
        "the dog, the man who holds a cup and the plate",
        "the cat between the dog and the bird",
        "bread and butter",
        "the bread and butter",
        "ham and cheese sandwich",
        "the red and the blue car",
        "the dog on the left and the right",
        "the one on the left and the one on the right",
        "the dog and its owner",
        "the dog and the other one",
        "the first two dogs",
        "all the dogs except the brown one",
        "the glasses",
        "the bus",
        "the grass",
        "a group of people",
        "everything",
        "all",
        "0 dogs",
        "the dog and describe the cat",
        "[1] and the two dogs",
    ],
)
def test_what_may_be_one_thing_is_left_whole(what: str) -> None:
    assert split_request(f"Please segment {what}.") == ()


@pytest.mark.parametrize(
    "text",
    [
        "What colour are the dog and the cat?",
        "Where are the dogs?",
        "Describe the dog and the cat.",
        "Segment the dog and the cat. Which is bigger?",
        "",
        "Segment the\ndog and the cat.",
    ],
)
def test_only_plain_requests_for_masks_are_taken_apart(text: str) -> None:
    assert split_request(text) == ()


def test_a_request_that_goes_on_speaks_of_one_thing_too() -> None:
    question = "Where are the dogs in this image? Please respond with the segmentation mask."
    assert split_request(question)[0][0] == question.replace("are the dogs", "is the dog")
    both = split_request("Find the dog and the cat in this image and segment them.")
    assert [one for one, _ in both] == [f"Find the {one} in this image and segment it." for one in ("dog", "cat")]


def assert_same_objects(answer: Answer, other: list[Any]) -> None:
    assert len(answer.objects) == len(other)
    for one, expected in zip(answer.objects, other, strict=True):
        assert (one.masks == expected.masks).mean() > 0.9999
        np.testing.assert_allclose(one.frame_scores, expected.frame_scores, atol=1e-3)


def named(engine: Engine) -> Engine:
    """The same model under a tokenizer that says that answers name what they segment."""
    tokenizer = copy.deepcopy(engine.processor.tokenizer)
    tokenizer.init_kwargs["named_seg"] = True
    return Engine(engine.model, Processor(tokenizer, engine.processor.settings))


def test_each_thing_is_answered_as_if_it_had_been_asked_for_alone(tiny_engine: Engine, clip: Clips) -> None:
    frames = clip(4)
    alone = [tiny_engine.open(frames).ask(one, **SHORT) for one, _ in split_request(TWO)]
    assert len(alone) == 2 and all(one.objects for one in alone)
    with tiny_engine.open(frames) as session:
        pieces = list(session.stream(TWO, each=True, **SHORT))
        answer = pieces[-1]
        assert isinstance(answer, Answer)
        assert_same_objects(answer, [thing for one in alone for thing in one.objects])
        assert [one.id for one in answer.objects] == list(range(1, len(answer.objects) + 1))
        assert answer.raw_text == " ".join(one.raw_text for one in alone)
        assert answer.tokens == alone[0].tokens + alone[1].tokens
        assert answer.question == TWO
        assert "".join(piece for piece in pieces if isinstance(piece, str)) == answer.text
        assert all(f"[{one.id}]" in answer.text for one in answer.objects)
        # one encoding, and one pass of tracking for all objects
        assert session._space.features.encoded == 4
        assert answer.timings.counts["vision_tower"] == 4
        tracked = [piece for piece in pieces if isinstance(piece, MaskPiece)]
        assert [piece.t for piece in tracked] == [0, 1, 2, 3]
        assert all(set(piece.rles) == {one.id for one in answer.objects} for piece in tracked)
        assert session.objects == {one.id: one for one in answer.objects}


def by_hand(session: Session, question: str, most: int) -> list[Any]:
    """The same thing asked for again and again, everything found hidden, on a still image."""
    space, found = session._space, []
    for _ in range(most):
        hidden = None
        if found:
            hidden = build_region_masks({k: one.track for k, one in enumerate(found)}, space.visual).any(1).flatten()
        options = DecodingOptions(**SHORT)
        reply = Reply(Turn(question=question), options=options, is_separate=True, hidden=hidden)
        space.dialogue.start(reply)
        reply.finish()
        before = len(found)
        for queries in reply.compute_queries(space.model):
            # its mask as the engine makes it: an object of the conversation with this state alone
            one = mask_of(session, queries)
            overlaps = [
                (one.masks & other.masks).sum() * 2 > min(one.masks.sum(), other.masks.sum()) for other in found
            ]
            if one.is_there and not any(overlaps) and len(found) < most:
                found.append(one)
        if len(found) in (before, most):
            break
    return found


def mask_of(session: Session, queries: torch.Tensor) -> Any:
    from unipixel.engine.memory import Anchor, set_spans
    from unipixel.engine.objects import track_objects

    space, number = session._space, session._space.memory.reserve_id()
    anchors = set_spans([Anchor(0, queries)], space.num_frames)
    for _ in track_objects(space, [space.new_object(number, anchors=anchors)]):
        pass
    return session.objects[number]


def test_plurals_are_asked_for_until_nothing_new_comes() -> None:
    engine, settings = load("nano"), SceneSettings(twins=1.0, num_objects=(3, 5), scale=(0.2, 0.4))
    counts = []
    for index in range(6):
        world = generate_scene(EVAL_SEED + 900, index, settings)
        names = [one.thing.name for one in world.objects]
        name = max(names, key=names.count)
        question = f"Please segment all the {name} in this image."
        ((one, most),) = split_request(question)
        expected = by_hand(engine.open(world.image), one, most)
        answer = engine.open(world.image).ask(question, each=True, **SHORT)
        there = [one for one in answer.objects if one.is_there]
        assert len(there) == len(expected) and len(answer.objects) <= max(len(there), 1)
        for one, other in zip(there, expected, strict=True):
            assert (one.masks == other.masks).mean() > 0.9999
        assert [one.id for one in answer.objects] == list(range(1, len(answer.objects) + 1))
        assert all(answer.text.count(f"[{one.id}]") == 1 for one in answer.objects)
        counts.append(len(expected))
        if expected[1:]:
            both = question.replace("all the", "two")
            assert len(engine.open(world.image).ask(both, each=True, **SHORT).objects) == 2
    assert max(counts) > 1  # or this shows nothing


def test_what_is_hidden_is_out_of_sight_of_the_question(tiny_engine: Engine, clip: Clips) -> None:
    """Equal to one pass over everything in which the question's rows are blind to those tokens."""
    model, processor = tiny_engine.model, tiny_engine.processor
    turn = Turn(question="Please segment the dog.")
    with tiny_engine.open(clip(3)) as session, torch.no_grad():
        dialogue, visual = session._space.dialogue, session._space.visual
        hidden = torch.zeros(visual.num_tokens, dtype=torch.bool)
        hidden[::3] = True

        def first_state(which: torch.Tensor | None) -> torch.Tensor:
            reply = Reply(turn, is_separate=True, hidden=which)
            dialogue.start(reply)
            assert reply.steps is not None
            return next(reply.steps)[0]

        ids = processor.build_first_turn(turn, visual).input_ids
        embeds = model.embed(ids[None], dialogue.vision.merged)
        positions, _ = model.compute_rope_index(ids[None], None, visual.grid_thw, visual.second_per_grid)
        start, opening = (
            ids.tolist().index(model.config.video_token_id),
            len(processor.chat.encode_opening(visual.num_tokens)),
        )
        sight = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        sight[opening:, start : start + len(hidden)] &= ~hidden
        whole = model.decode(embeds, positions, sight[None, None])[:, -1]
        torch.testing.assert_close(first_state(hidden), whole, rtol=1e-4, atol=1e-4)
        plain = first_state(None)
        assert (plain - whole).abs().max() > 1e-2
        torch.testing.assert_close(first_state(torch.zeros_like(hidden)), plain, rtol=1e-4, atol=1e-4)


def test_a_batch_answers_each_thing_as_a_session_does(tiny_engine: Engine, clip: Clips) -> None:
    media = [clip(3), clip(1, seed=1)[0], clip(2, seed=2)]
    texts = [TWO, "Please segment all the dogs in this image.", "What colour is the ball?"]
    for source, text, answer in zip(media, texts, tiny_engine.ask_batch(media, texts, **SHORT), strict=True):
        with tiny_engine.open(source) as session:
            alone = session.ask(text, **SHORT)
        assert (answer.text, answer.raw_text, answer.tokens) == (alone.text, alone.raw_text, alone.tokens)
        assert_same_objects(answer, list(alone.objects))


def test_a_session_goes_on_after_it_and_can_be_saved(tiny_engine: Engine, clip: Clips, tmp_path: Path) -> None:
    with tiny_engine.open(clip(3)) as session:
        first = session.ask(TWO, **SHORT)
        said = tiny_engine.processor.tokenizer.decode(session._space.dialogue.transcript[0].input_ids.tolist())
        assert said.startswith(f"{TWO}<|im_end|>\n<|im_start|>assistant\n{first.raw_text}")
        session.save(tmp_path / "s.zip", frames=True)
        about = f"What colour is [{first.objects[-1].id}]?"
        again = session.ask(about, **SHORT)
        said = tiny_engine.processor.tokenizer.decode(session._space.dialogue.transcript[0].input_ids.tolist())
        assert "<|im_end|>\n<|im_start|>user\nHere is a video" in said and about in said
        third = session.ask(TWO, **SHORT)
        assert min(one.id for one in third.objects) > max(session.objects.keys() - {one.id for one in third.objects})
        assert_same_objects(third, list(first.objects))
    with tiny_engine.open_session(tmp_path / "s.zip") as restored:
        assert restored.objects.keys() == {one.id for one in first.objects}
        assert restored.ask(about, **SHORT).raw_text == again.raw_text


def test_it_is_switched_on_by_itself_where_the_checkpoint_needs_it(tiny_engine: Engine, clip: Clips) -> None:
    for engine, needs in ((tiny_engine, True), (named(tiny_engine), False)):
        with engine.open(clip(2)) as session:
            assert bool(session.prepare(TWO).parts) is needs
            assert not session.prepare(TWO, each=False).parts
            assert session.prepare(TWO, each=True).parts
            assert not session.prepare(TWO, prompts=Point(3, 3)).parts
            assert not session.prepare(TWO, answer_prefix="The").parts
            with pytest.raises(PromptError, match="each is for things that a question names"):
                session.ask(TWO, each=True, prompts=Point(3, 3))


def test_what_is_nowhere_is_said_once(tiny_engine: Engine, clip: Clips) -> None:
    model = copy.deepcopy(tiny_engine.model)
    with torch.no_grad():
        model.lm_head.weight[model.config.seg_token_id] = 0
    with Engine(model, tiny_engine.processor).open(clip(2)) as session:
        answer = session.ask("Please segment all the dogs.", **SHORT)
        assert answer.objects == () and answer.raw_text
        assert len(answer.tokens) <= 16  # of one reply
        session.ask("What is this?", **SHORT)


def test_points_are_shown_in_the_words_that_a_checkpoint_learnt(tiny_engine: Engine, clip: Clips) -> None:
    from unipixel.engine.turn import answer_request

    def asked(engine: Engine, text: str | None, *points: Point) -> str:
        with engine.open(clip(2)) as session:
            ask = next(answer_request(session._space, session.prepare(text, prompts=points)))
            assert isinstance(ask, Reply) and ask.is_separate
            return ask.turn.question

    one, other = Point(20, 30), Point(60, 40)
    localize = "Please localize the relevant objects with IDs."
    assert asked(tiny_engine, "What colour is this?", one) == f"What colour is [1] <|ref|>? {localize}"
    choice = "Which is it?\nOptions:\n(A) Red\n(B) Blue"
    assert asked(tiny_engine, f"{choice}\nPlease only give the best option.", one) == (
        f"About [1] <|ref|>: {choice}. {localize}"
    )
    assert asked(tiny_engine, None, one, other) == f"What are [1] <|ref|> and [2] <|ref|>? {localize}"
    assert asked(tiny_engine, "Is [7] near [1]?", one) == f"What is [1] <|ref|>? {localize}"
    assert asked(named(tiny_engine), "What colour is this?", one) == "Please segment [1] <|ref|>."


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("please segment the dog", "Please segment the dog."),
        ("SEGMENT THE DOG!", "Segment the dog!"),
        ("Segment The Red Dog", "Segment the red dog."),
        ("what is [1]", "What is [1]?"),
        ("IS [2] A DOG?", "Is [2] a dog?"),
        ("What is this?", "What is this?"),
        ("Segment the BMW beside the dog.", "Segment the BMW beside the dog."),
        ("TV", "TV."),
        ("Segment the Dog.", "Segment the Dog."),
        ("Which?\nA. dog\nB. cat", "Which?\nA. dog\nB. cat"),
        ("the answer is (A)", "The answer is (A)"),
        ("", ""),
    ],
)
def test_questions_are_written_as_sentences(given: str, sentence: str) -> None:
    assert write_as_sentence(given) == sentence == write_as_sentence(sentence)


def test_case_and_full_stop_do_not_change_what_nano_is_asked() -> None:
    engine = unipixel.load(device="cpu")
    for variants in (
        ("Segment the dog.", "segment the dog", "SEGMENT THE DOG", "Segment The Dog."),
        ("Where is the umbrella?", "where is the umbrella", "WHERE IS THE UMBRELLA?"),
        ("Please segment the dog.", "please segment the Dog", "Please segment the DOG."),
        ("What is this?", "what is this", "What Is This?"),
    ):
        answers = []
        for text in variants:
            with engine.open(EXAMPLES / "picture.png") as session:
                answer = session.ask(text)
            answers.append((answer.text, [one.track.rles for one in answer.objects]))
            assert answer.question == text
        assert all(answer == answers[0] for answer in answers)
