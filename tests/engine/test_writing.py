"""Words: replies as text with ids, labels, and the engine's own sentences."""

from __future__ import annotations

from itertools import count

import pytest

from unipixel.engine import turn
from unipixel.engine.detokenizer import ReplyDetokenizer, find_label
from unipixel.engine.engine import Engine


def written(engine: Engine, text: str, first_id: int = 5) -> tuple[list[str], list[tuple[str, int | None]]]:
    """Pieces of a reply, and what each `<|seg|>` was named from."""
    chat, numbers, named = engine.processor.chat, count(first_id), []

    def name(before: str, own: int | None) -> int:
        named.append((before, own))
        return next(numbers)

    reply = ReplyDetokenizer(engine.processor.tokenizer, chat.ids["<|seg|>"], {chat.ids["<|im_end|>"]}, name)
    pieces = [reply.push(token) for token in [*chat.encode(text), chat.ids["<|im_end|>"]]]
    pieces.append(reply.finish())
    assert "".join(pieces) == reply.text
    return pieces, named


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("The target is <|seg|>.", "The target is [5]."),
        ("the dog <|seg|> and the red ball <|seg|>", "the dog [5] and the red ball [6]"),
        ("[1] <|seg|> [2] <|seg|>", "[5] [6]"),
        ("the dog [1] <|seg|>, see [3].", "the dog [5], see [3]."),
        ("the dog<|seg|>, see [3].", "the dog [5], see [3]."),
        ("<|seg|><|seg|>", "[5][6]"),
        ("  two  words \n", "two  words"),
        ("a list[3] of [12", "a list[3] of [12"),
        ("café 🦒 <|seg|>", "café 🦒 [5]"),
        ("", ""),
    ],
)
def test_seg_tokens_become_ids_in_place_of_the_models_own_numbers(tiny_engine: Engine, raw: str, text: str) -> None:
    assert "".join(written(tiny_engine, raw)[0]) == text


def test_an_object_is_named_from_the_words_since_the_one_before(tiny_engine: Engine) -> None:
    _, named = written(tiny_engine, "the dog [7] <|seg|> and a ball <|seg|>")
    assert [(before.strip(), own) for before, own in named] == [("the dog", 7), ("and a ball", None)]


def test_characters_of_several_tokens_are_shown_whole(tiny_engine: Engine) -> None:
    pieces, _ = written(tiny_engine, "🦒 é")
    assert all("\ufffd" not in piece for piece in pieces)


@pytest.mark.parametrize(
    ("before", "question", "label"),
    [
        ("The target is ", "Please segment the tallest giraffe in this image.", "tallest giraffe"),
        ("Sure, it is ", "What is there?", ""),
        ("the dog ", "", "dog"),
        (", and the red ball ", "", "red ball"),
        ("It eats grass. A cow ", "", "cow"),
        ("", "Can you find every red car?", "every red car"),
        ("", "Please segment [1].", ""),
    ],
)
def test_labels_are_the_words_before_the_object_or_what_was_asked_for(before: str, question: str, label: str) -> None:
    assert find_label(before, question) == label


@pytest.mark.parametrize(
    ("text", "injected", "pointed", "expected"),
    [
        ("What is this?", [3], [], "What is [3]?"),
        ("Which colour is this object?", [3], [], "Which colour is [3]?"),
        ("What is [3] doing?", [3], [], "What is [3] doing?"),
        ("Where does it go?", [1, 2], [], "About [1] and [2]: Where does it go?"),
        ("Is this dog near [2]?", [2, 4], [], "About [4]: Is this dog near [2]?"),
        ("What is this?", [], [6], "What is [6] <|ref|>?"),
        ("Is [1] like [2]?", [1], [2], "Is [1] like [2] <|ref|>?"),
    ],
)
def test_questions_speak_of_every_object_by_id(
    text: str, injected: list[int], pointed: list[int], expected: str
) -> None:
    assert turn.add_mentions(text, injected, pointed) == expected


def test_the_first_round_asks_for_all_prompts_at_once() -> None:
    assert turn.write_prompt_question([4], named=True) == "Please segment [4] <|ref|>."
    assert (
        turn.write_prompt_question([1, 2, 3], named=True) == "Please segment [1] <|ref|>, [2] <|ref|> and [3] <|ref|>."
    )
    assert turn.write_prompt_answer([1, 2]) == "[1] <|seg|> [2] <|seg|>"
    assert turn.sort_by_reference("is [2] <|ref|> like [1] <|ref|>?", [1, 2]) == [2, 1]
