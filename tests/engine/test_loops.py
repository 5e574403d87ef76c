"""Replies that repeat themselves are stopped, all others are left alone; replies that are held to some choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from passages import texts

from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine
from unipixel.engine.generation import (
    LOOP_TOKENS,
    ConversationCache,
    DecodingOptions,
    Reply,
    find_loop,
    generate,
)
from unipixel.errors import PromptError
from unipixel.media import Media
from unipixel.sample import Turn

SEG = 99
BEFORE = [11, 12, 13, 14, 15]


@pytest.mark.parametrize(
    ("ids", "period"),
    [
        ([], 0),
        ([7] * (LOOP_TOKENS - 1), 0),
        ([7] * LOOP_TOKENS, 1),
        ([*BEFORE, *[7] * LOOP_TOKENS], 1),
        ([*[7] * 200, 8], 0),
        ([1, 2] * (LOOP_TOKENS // 2), 2),
        ([*BEFORE, 2, *[1, 2] * (LOOP_TOKENS // 2)], 2),
        ([1, 2, 2] * 11, 3),
        (list(range(20)) * 3, 0),
        (list(range(20)) * 4, 20),
        ([*range(10), *list(range(20)) * 3], 0),
        (list(range(64)) * 4, 64),
        (list(range(65)) * 4, 0),
        ([1, 2, SEG] * 40, 0),
        ([SEG, *BEFORE * 10], 5),
        ([n for k in range(60) for n in (1, 2, k)], 0),
    ],
)
def test_loops_are_passages_that_are_written_four_times_over(ids: list[int], period: int) -> None:
    assert find_loop(ids, SEG) == period


def test_no_text_without_a_loop_looks_like_one() -> None:
    """Over few words, in which much is repeated by chance, only what comes four times in a row counts."""
    rng = np.random.default_rng(0)
    for words in (3, 10, 50):
        ids = rng.integers(0, words, 2000).tolist()
        assert not any(find_loop(ids[:end], SEG) for end in range(1, len(ids)))


@pytest.fixture
def babble(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The model says these three tokens again and again, in whatever batch."""
    said = [21, 22, 23]

    def compute_logits(hidden: torch.Tensor) -> torch.Tensor:
        logits = hidden.new_zeros(*hidden.shape[:-1], tiny_engine.model.config.language.vocab_size)
        logits[..., said[steps["count"] % 3]] = 5.0
        steps["count"] += 1
        return logits

    steps = {"count": 0}
    monkeypatch.setattr(tiny_engine.model, "compute_logits", compute_logits)
    yield said


@pytest.mark.parametrize("rows", [1, 3])
def test_a_reply_that_repeats_itself_ends_there(tiny_engine: Engine, babble: list[int], rows: int) -> None:
    model, passages = tiny_engine.model, texts(tiny_engine.model, (9, 12, 5)[:rows])
    replies = [Reply() for _ in passages]
    for _ in generate(model, ConversationCache(), passages, replies, DecodingOptions(max_new_tokens=100)):
        pass
    for reply in replies:
        assert reply.is_loop and reply.ids == (babble * 12)[:LOOP_TOKENS]
    free = [Reply() for _ in passages]
    options = DecodingOptions(max_new_tokens=100, stops_loops=False)
    for _ in generate(model, ConversationCache(), passages, free, options):
        pass
    assert all(len(reply.ids) == 100 and not reply.is_loop for reply in free)


def test_the_answer_says_so_and_the_conversation_goes_on(
    tiny_engine: Engine, picture: Media, babble: list[int]
) -> None:
    with tiny_engine.open(picture) as session:
        answer = session.ask("What is this?")
        assert answer.is_loop and answer.to_json()["is_loop"] and len(answer.tokens) == LOOP_TOKENS
        assert session.ask("And now?").is_loop
        assert len(session.ask_turn(Turn(question="What is this?"), max_new_tokens=50).tokens) == 50  # evaluation
        assert not session.ask("Short?", max_new_tokens=LOOP_TOKENS - 1).is_loop


# choices

CHOICES = ("dog", "the dog runs", "the cat", "red")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_reply_is_one_of_its_choices(tiny_engine: Engine, picture: Media, temperature: float) -> None:
    found = set()
    with tiny_engine.open(picture) as session:
        for seed in range(6):
            answer = session.ask("Which?", choices=CHOICES, temperature=temperature, seed=seed)
            assert answer.text in CHOICES and answer.tokens[-1] in tiny_engine.model.config.eos_token_ids
            found.add(answer.text)
        assert session.ask("Which?", choices=["cat"]).text == "cat"
        pieces = list(session.stream("Which?", choices=["the cat"]))
        assert isinstance(pieces[-1], Answer) and "".join(p for p in pieces if isinstance(p, str)) == "the cat"
    assert temperature == 0 or len(found) > 1


def test_the_likeliest_choice_is_taken_also_in_a_batch(
    tiny_engine: Engine, picture: Media, clip: Callable[..., np.ndarray]
) -> None:
    """Of two texts that part at their first token, the one whose first token the model likes better."""
    first = {one: tiny_engine.processor.chat.encode(one)[0] for one in ("dog", "red")}
    session = tiny_engine.open(picture)
    alone = session.ask("Which?", choices=list(first))
    passage = session._space.dialogue.build_prefill(Reply(Turn(question="Which?")))
    (step,) = generate(
        tiny_engine.model, ConversationCache(), [passage], [Reply()], DecodingOptions(max_new_tokens=1), static=False
    )
    assert alone.text == max(first, key=lambda one: float(step[1][0, first[one]]))
    batch = tiny_engine.answer_batch(
        [
            lambda: tiny_engine.open(picture).prepare("Which?", choices=list(first)),
            lambda: tiny_engine.open(Media.from_array(clip(1, seed=3)[0])).prepare("Which?", max_new_tokens=256),
            lambda: tiny_engine.open(picture).prepare("Which?", choices=["cat"]),
        ]
    )
    free = tiny_engine.open(Media.from_array(clip(1, seed=3)[0])).ask("Which?")
    assert [one.text for one in batch] == [alone.text, free.text, "cat"]


@pytest.mark.parametrize(
    ("text", "choices", "words"),
    [
        ("Which?", ["dog", "dog"], "is empty or given twice"),
        ("Which?", [" "], "is empty or given twice"),
        ("Which?", "dog", "choices is a str; it must be a list of texts"),
        ("Which?", [3], "the choice is a int"),
        ("Which?", ["<|seg|>"], "reserved token"),
        (None, ["dog"], "question is empty"),
    ],
)
def test_choices_that_are_none_are_refused(
    tiny_engine: Engine, picture: Media, text: str | None, choices: list[str], words: str
) -> None:
    with tiny_engine.open(picture) as session, pytest.raises(PromptError, match=words):
        session.ask(text, choices=choices)
    with tiny_engine.open(picture) as session, pytest.raises(PromptError, match="choices"):
        session.ask("Segment the dog and the cat.", choices=["dog"], each=True)
