"""The small tokenizer: one token per known word, nothing out of vocabulary, files that transformers reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from unipixel.errors import CheckpointError
from unipixel.processing import SPECIAL_TOKENS, build_tokenizer
from unipixel.processing.tokenizer import load_tokenizer, save_tokenizer


def pieces(tokenizer: Any, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer.encode(text)]


def test_every_word_is_one_token_with_and_without_its_space(tokenizer: Any) -> None:
    for word in ("Please", "segment", "dog", "image", "café", "apple"):
        assert pieces(tokenizer, f"{word} {word}") == [word, f" {word}"]
    assert pieces(tokenizer, "It doesn't fit") == ["It", " doesn", "'t", " fit"]


def test_digits_brackets_and_punctuation_stand_alone(tokenizer: Any) -> None:
    assert pieces(tokenizer, "[12]: the dog (cat).") == ["[", "1", "2", "]", ":", " the", " dog", " (", "cat", ")", "."]
    assert pieces(tokenizer, "<1>-<2>") == ["<", "1", ">", "-", "<", "2", ">"]


@pytest.mark.parametrize("text", ["quick brown zebras", "日本語 😀", "naïve\tÅngström\r\n\n x", "\x00\x7f", "  ", ""])
def test_any_other_text_is_spelled_and_comes_back(text: str, tokenizer: Any) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_numbered_after_the_vocabulary_in_one_order(tokenizer: Any) -> None:
    numbers = [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS]
    assert numbers == list(range(len(tokenizer) - len(SPECIAL_TOKENS), len(tokenizer)))
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"


def test_the_same_texts_in_any_order_give_the_same_vocabulary(tokenizer: Any, texts: tuple[str, ...]) -> None:
    assert build_tokenizer(reversed(texts)).get_vocab() == tokenizer.get_vocab()


def test_the_files_are_read_by_transformers_auto_class(tokenizer: Any, texts: tuple[str, ...], tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    text = "".join(texts) + "anything else <|ref|>"
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)):
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.get_added_vocab() == tokenizer.get_added_vocab()
        assert (loaded.eos_token, loaded.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not the file of a byte-level BPE tokenizer"),
        ("{}", "is not the file of a byte-level BPE tokenizer"),
        ("[1]", "is not the file of a byte-level BPE tokenizer"),
        ('{"model": {"vocab": {"a": 0}, "merges": ["a b"]}, "added_tokens": []}', "a merge or a number"),
        ('{"model": {"vocab": {"a": "0"}, "merges": []}, "added_tokens": []}', "a merge or a number"),
        ('{"model": {"vocab": {}, "merges": [[1]]}, "added_tokens": []}', "is not the file"),
        (None, "has no tokenizer; it needs tokenizer.json"),
    ],
)
def test_a_damaged_tokenizer_is_refused_with_its_name(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_config_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for damage in ("{", json.dumps([config])):
        (tmp_path / "tokenizer_config.json").write_text(damage)
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_tokenizer(tmp_path)
