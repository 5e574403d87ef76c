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
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

from unipixel.atomic import write_text
from unipixel.checks import check_mapping, join_lines, parse_json, shorten
from unipixel.errors import CheckpointError
from unipixel.processing.chat import END_OF_TEXT, MEM, NAMED_SEG, REF, SEG, SPECIAL_TOKENS, TURN_END
from unipixel.processing.images import PROCESSOR_CLASS

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = pre_tokenizers.Split(Regex(rf"{_CONTRACTIONS}|\p{{L}}+"), behavior="removed", invert=True)
_PIECES = "|".join(
    (
        _CONTRACTIONS,
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # letters, with one sign or space in front
        r"\p{N}",  # a digit
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # signs, with a space in front and line breaks behind
        r"\s*[\r\n]+",  # line breaks, with white space in front
        r"\s+(?!\S)",  # white space but for its last, which belongs to what follows
        r"\s+",
    )
)
"""Qwen2's rule for cutting text into pieces, inside which tokens are merged."""
_OPENING = ("[", "(", "<")
"""Punctuation that usually follows a space; the pair becomes one token."""
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")
_UNLIMITED = int(1e30)
"""``model_max_length`` of files that state none."""


class QwenTokenizer:
    """Byte-level BPE in the scheme of Qwen2, on the library `tokenizers`.

    Its attributes have the names that they have in transformers, whose fast tokenizers can be used in its place.

    Attributes:
        backend_tokenizer: the library's tokenizer, to which tokens can be added.
        init_kwargs: ``tokenizer_config.json`` as it was read.
        name_or_path: the folder that it was read from; empty for none.
        chat_template: as written in the folder, or None; not used here.

    Args:
        vocabulary: byte-level text of every token that is not added, and its number.
        merges: pairs of tokens that are joined, the first first.
        settings: ``tokenizer_config.json``: named tokens, and ``added_tokens_decoder`` with what is added, by number.

    Raises:
        TypeError: a token in ``settings`` is neither text nor a mapping with its text.
        ValueError: an added token has not the number that comes next.
    """

    def __init__(
        self, vocabulary: dict[str, int], merges: list[tuple[str, str]], settings: dict[str, Any] | None = None
    ) -> None:
        self.init_kwargs: dict[str, Any] = dict(settings or {})
        self.name_or_path = ""
        template = self.init_kwargs.get("chat_template")
        self.chat_template = template if isinstance(template, str) else None
        backend = Tokenizer(BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
        backend.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
        is_prefixed = bool(self.init_kwargs.get("add_prefix_space"))
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=is_prefixed, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        backend.post_processor = processors.ByteLevel(trim_offsets=False)  # adds nothing
        backend.decoder = decoders.ByteLevel()
        self.backend_tokenizer = backend
        stated = self.init_kwargs.get("added_tokens_decoder") or {}
        tokens = {int(number): _read_token(one) for number, one in stated.items()}
        backend.add_tokens([tokens[number] for number in sorted(tokens)])
        for number, token in tokens.items():
            if backend.token_to_id(token.content) != number:
                found = backend.token_to_id(token.content)
                raise ValueError(f"{token.content!r} is said to be number {number}, but its place makes it {found}")
        # these match as they are, whatever flags are stated
        backend.add_tokens([AddedToken(token, special=True) for token in self._list_special()])

    def _list_special(self) -> list[str]:
        """Texts of named and extra tokens."""
        extra = self.init_kwargs.get("extra_special_tokens") or self.init_kwargs.get("additional_special_tokens") or []
        own = [
            name for name, one in self.init_kwargs.items() if name.endswith("_token") and isinstance(one, str | dict)
        ]
        named = [self._get_named(name) for name in dict.fromkeys((*_NAMED, *own))]
        more = [_read_token(one).content for one in (extra.values() if isinstance(extra, dict) else extra)]
        return list(dict.fromkeys(token for token in (*named, *more) if token is not None))

    def _get_named(self, name: str) -> str | None:
        # where nothing is said, this token ends and pads
        default = END_OF_TEXT if name in ("unk_token", "eos_token", "pad_token") else None
        value = self.init_kwargs.get(name, default)
        return None if value is None else str(_read_token(value).content)

    @property
    def eos_token(self) -> str | None:
        return self._get_named("eos_token")

    @property
    def pad_token(self) -> str | None:
        return self._get_named("pad_token")

    @property
    def model_max_length(self) -> int:
        """The longest input that the model takes, as the files state it."""
        return int(self.init_kwargs.get("model_max_length") or _UNLIMITED)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Added tokens by number."""
        return dict(self.backend_tokenizer.get_added_tokens_decoder())

    def get_added_vocab(self) -> dict[str, int]:
        """Numbers of the added tokens, in their order."""
        return {token.content: number for number, token in sorted(self.added_tokens_decoder.items())}

    def get_vocab(self) -> dict[str, int]:
        """Numbers of all tokens by their byte-level text."""
        return dict(self.backend_tokenizer.get_vocab())

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size())

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """The number of a token; None if there is none of that text."""
        number: int | None = self.backend_tokenizer.token_to_id(token)
        return number

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that may contain special tokens; nothing is added, nothing cut."""
        return list(self.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> str:
        """The text of one token id, or of a sequence, array or tensor of them.

        Args:
            clean_up_tokenization_spaces: not done here; tokenizers of transformers need to be told.
        """
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        ids = [ids] if isinstance(ids, int) else list(ids)
        return str(self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def _read_token(stated: Any) -> AddedToken:
    """A token as the files state it: its text, or a mapping with text and flags."""
    if isinstance(stated, str):
        return AddedToken(stated, special=True)
    if not isinstance(stated, dict) or not isinstance(stated.get("content"), str):
        raise TypeError(f"a token is stated as {shorten(stated)}, expected its text or a mapping with its content")
    return AddedToken(stated["content"], **{name: bool(stated[name]) for name in _FLAGS if name in stated})


def load_tokenizer(folder: str | Path) -> QwenTokenizer:
    """The tokenizer of a checkpoint folder, from ``tokenizer.json`` or from ``vocab.json`` with ``merges.txt``.

    Vocabulary, merges and added tokens are read; the rules around them are Qwen2's.

    Raises:
        CheckpointError: the files are missing or malformed, or number an added token otherwise than its place does.
    """
    folder = Path(folder)
    vocabulary, merges, added = _read_model(folder)
    template = folder / "chat_template.jinja"
    try:
        tokenizer = QwenTokenizer(vocabulary, merges, _read_settings(folder, added))
        if template.exists():
            tokenizer.chat_template = template.read_text(encoding="utf-8")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {join_lines(error)}") from error
    tokenizer.name_or_path = str(folder)
    return tokenizer


def _read_model(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], list[dict[str, Any]]]:
    """Vocabulary, merges, and the added tokens of a ``tokenizer.json``; the tokenizer library has no exception of its
    own, so all is checked here."""
    path = folder / "tokenizer.json"
    is_whole = path.exists()
    if not is_whole:
        path = folder / "vocab.json"
        if not (path.exists() and (folder / "merges.txt").exists()):
            raise CheckpointError(f"{folder} has no tokenizer; it needs tokenizer.json, or vocab.json and merges.txt")
    try:
        tree = parse_json(path.read_text(encoding="utf-8"))
        if is_whole:
            vocabulary, rows, added = tree["model"]["vocab"], tree["model"]["merges"], tree["added_tokens"]
        else:
            path = folder / "merges.txt"
            lines = path.read_text(encoding="utf-8").split("\n")  # no other line break: these are parts of tokens
            vocabulary, rows, added = tree, [x for x in lines if x and not x.startswith("#version")], []
        merges = [(a, b) for a, b in (row.split(" ") if isinstance(row, str) else row for row in rows)]
        numbers = set(vocabulary.values())
        ok = len(numbers) == len(vocabulary) and all(isinstance(n, int) and 0 <= n < 1 << 32 for n in numbers)
        ok = ok and all(a in vocabulary and b in vocabulary and a + b in vocabulary for a, b in merges)
        ok = ok and all(isinstance(token["content"], str) for token in added)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the file of a byte-level BPE tokenizer: {join_lines(error)}") from error
    if not ok:
        raise CheckpointError(f"{path} has a merge or a number that does not fit its vocabulary")
    return vocabulary, merges, added


def _read_settings(folder: Path, added: list[dict[str, Any]]) -> dict[str, Any]:
    """``tokenizer_config.json``; where that does not say which tokens are added, other files do.

    Args:
        added: the entries of ``tokenizer.json``.
    """

    def read(name: str) -> dict[str, Any]:
        path = folder / name
        return check_mapping(parse_json(path.read_text(encoding="utf-8")), name) if path.exists() else {}

    settings = read("tokenizer_config.json")
    if "added_tokens_decoder" in settings:
        return settings
    plain = {str(number): {"content": text} for text, number in read("added_tokens.json").items()}
    stated = plain | {str(token["id"]): token for token in added}
    return settings | read("special_tokens_map.json") | {"added_tokens_decoder": stated}


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
    added = {str(i): {"content": t.content, **{flag: getattr(t, flag) for flag in _FLAGS}} for i, t in decoder}
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


def build_tokenizer(texts: Iterable[str], *, named_seg: bool = False, max_length: int = 4096) -> QwenTokenizer:
    """A tokenizer in which every word of ``texts`` is one token.

    Args:
        texts: everything the checkpoint should read and write fluently; special tokens in them are ignored.
        named_seg: what `chat.NAMED_SEG` says of the checkpoint.
        max_length: the longest input the model takes, recorded in the files.
    """
    model = _learn_words(texts)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    first = len(model["vocab"])
    settings = {
        "added_tokens_decoder": {
            str(first + place): {"content": token, **flags} for place, token in enumerate(SPECIAL_TOKENS)
        },
        "additional_special_tokens": [token for token in SPECIAL_TOKENS if token != END_OF_TEXT],
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "model_max_length": max_length,
        NAMED_SEG: named_seg,
    }
    return QwenTokenizer(model["vocab"], [(a, b) for a, b in model["merges"]], settings)


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
