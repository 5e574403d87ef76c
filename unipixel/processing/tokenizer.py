"""Tokenizers in the scheme of Qwen2 (byte-level BPE): reading a checkpoint's, and building a small one of our own.

A tokenizer of our own has one token per word. Text is cut by Qwen2's rules, so punctuation and digits stand alone, and
every letter run of the given texts becomes one token, with and without the space in front. Whatever else is written is
spelled with the pieces that were learnt on the way, down to single bytes: nothing is out of vocabulary.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import Qwen2Tokenizer

from unipixel.atomic import write_text
from unipixel.checks import join_lines, parse_json
from unipixel.errors import CheckpointError
from unipixel.processing.chat import END_OF_TEXT, MEM, NAMED_SEG, REF, SEG, SPECIAL_TOKENS, TURN_END
from unipixel.processing.images import PROCESSOR_CLASS

# the parts of Qwen2's rule that match letters, by the same engine
_WORDS = pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+"), behavior="removed", invert=True)
_OPENING = ("[", "(", "<")
"""Punctuation that usually follows a space; the pair becomes one token."""


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a checkpoint folder, from ``tokenizer.json`` or from ``vocab.json`` with ``merges.txt``.

    Raises:
        CheckpointError: the files are missing or malformed.

    Differs: ``AutoTokenizer`` first reads ``config.json``, whose model type transformers does not know, and warns.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if path.exists():
        _check_file(path)
    elif not ((folder / "vocab.json").exists() and (folder / "merges.txt").exists()):
        raise CheckpointError(f"{folder} has no tokenizer; it needs tokenizer.json, or vocab.json and merges.txt")
    try:
        return Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError) as error:
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {join_lines(error)}") from error


def save_tokenizer(tokenizer: Any, folder: str | Path) -> None:
    """Write the files of a tokenizer in the form of the released checkpoints, which transformers 4 and 5 read.

    Differs: ``save_pretrained`` of transformers 5 writes a form that 4.53.3, on which the original runs, does not read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    tree |= {"truncation": None, "padding": None}
    model = tree["model"]
    vocabulary = dict(sorted(model["vocab"].items(), key=lambda entry: entry[1]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    decoder = sorted(tokenizer.added_tokens_decoder.items())
    flags = ("lstrip", "normalized", "rstrip", "single_word")
    added = {
        str(i): {"content": t.content, **{f: getattr(t, f) for f in flags}, "special": t.special} for i, t in decoder
    }
    plain = {token["content"]: {k: v for k, v in token.items() if k != "special"} for token in added.values()}
    extra = [token for token in (REF, SEG, MEM) if token in plain]
    given = {k: v for k in ("add_prefix_space", NAMED_SEG) if (v := tokenizer.init_kwargs.get(k)) is not None}
    config = {
        **given,
        "added_tokens_decoder": added,
        "additional_special_tokens": extra,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "do_resize": False,
        "eos_token": tokenizer.eos_token,
        "errors": "replace",
        "extra_special_tokens": {},
        "model_max_length": tokenizer.model_max_length,
        "pad_token": tokenizer.pad_token,
        "processor_class": PROCESSOR_CLASS,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        "use_fast": True,
    }
    special = {
        name: plain[token] for name in ("eos_token", "pad_token") if (token := getattr(tokenizer, name)) in plain
    }
    files = {
        "tokenizer.json": json.dumps(tree, indent=2, ensure_ascii=False),
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")),
        "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
        "added_tokens.json": json.dumps({t.content: i for i, t in decoder}, indent=2, sort_keys=True) + "\n",
        "special_tokens_map.json": json.dumps(
            {"additional_special_tokens": [plain[token] for token in extra], **special}, indent=2
        ),
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
    }
    if isinstance(tokenizer.chat_template, str):
        files["chat_template.jinja"] = tokenizer.chat_template
    for name, text in files.items():
        write_text(folder / name, text)


def _check_file(path: Path) -> None:
    """Refuse a ``tokenizer.json`` that is not a byte-level BPE; the tokenizer library has no exception of its own."""
    try:
        tree = parse_json(path.read_text(encoding="utf-8"))
        model = tree["model"]
        vocabulary, merges = model["vocab"], [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        ok = all(isinstance(number, int) and number >= 0 for number in vocabulary.values())
        ok = ok and len(set(vocabulary.values())) == len(vocabulary)
        ok = ok and all(a in vocabulary and b in vocabulary and a + b in vocabulary for a, b in merges)
        ok = ok and all(isinstance(token["content"], str) for token in tree["added_tokens"])
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the file of a byte-level BPE tokenizer: {join_lines(error)}") from error
    if not ok:
        raise CheckpointError(f"{path} has a merge or a number that does not fit its vocabulary")


def build_tokenizer(texts: Iterable[str], *, named_seg: bool = False, max_length: int = 4096) -> Any:
    """A transformers tokenizer in which every word of ``texts`` is one token.

    Args:
        texts: everything the checkpoint should read and write fluently; special tokens in them are ignored.
        named_seg: what `chat.NAMED_SEG` says of the checkpoint.
        max_length: the longest input the model takes, recorded in the files.

    Returns:
        A ``Qwen2Tokenizer``, which `save_tokenizer` writes.
    """
    model = _learn_words(texts)
    with TemporaryDirectory() as folder:
        _write_files(Path(folder), model, named_seg, max_length)
        return load_tokenizer(folder)


def _learn_words(texts: Iterable[str]) -> dict[str, Any]:
    """Vocabulary and merges; both a word and the word with its leading space are merged to the end."""
    special = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))
    words: dict[str, None] = {f" {mark}": None for mark in _OPENING}
    for text in texts:
        plain = unicodedata.normalize("NFC", special.sub(" ", text))
        for word, _ in _WORDS.pre_tokenize_str(plain):
            words[word] = None
            if not word.startswith("'"):
                words[f" {word}"] = None
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        # merging stops when every word is whole, which takes fewer merges than there are bytes
        vocab_size=256 + sum(len(word.encode()) for word in words),
        min_frequency=0,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    learner.train_from_iterator(sorted(words), trainer)
    return dict(json.loads(learner.to_str())["model"])


def _write_files(folder: Path, model: dict[str, Any], named_seg: bool, max_length: int) -> None:
    """``tokenizer.json`` and ``tokenizer_config.json`` with the special tokens numbered after the vocabulary."""
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(BPE(vocab=model["vocab"], merges=merges))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(tokenizer.token_to_id(token)): {"content": token, **flags} for token in SPECIAL_TOKENS}
    config = {
        "added_tokens_decoder": added,
        "additional_special_tokens": [token for token in SPECIAL_TOKENS if token != END_OF_TEXT],
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "model_max_length": max_length,
        "tokenizer_class": "Qwen2Tokenizer",
        NAMED_SEG: named_seg,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
