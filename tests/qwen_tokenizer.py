"""The tokenizer of Qwen2.5-VL with UniPixel's three tokens, made from the public list of ranks.

The list is a file of the package ``dashscope`` (``resources/qwen.tiktoken``: per line a token in base 64 and its rank).
In byte-pair encoding a token's rank is that of its merge, so that the merges can be found again: a token's own parts
are joined, lowest rank first, by the merges before it, until two are left.
"""

from __future__ import annotations

import base64
import importlib.util
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import Qwen2Tokenizer

MARKUP = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PLAIN = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>",
)  # fmt: skip
PIXEL = ("<|ref|>", "<|seg|>", "<|mem|>")


def find_ranks() -> Path | None:
    """The list in an installed ``dashscope``; None without one."""
    found = importlib.util.find_spec("dashscope")
    places = [] if found is None else list(found.submodule_search_locations or ())
    paths = [Path(place) / "resources" / "qwen.tiktoken" for place in places]
    return next((path for path in paths if path.is_file()), None)


def build(path: Path) -> Any:
    """The tokenizer of a list of ranks."""
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    signs = _signs()
    vocabulary = {"".join(signs[b] for b in token): rank for token, rank in ranks.items()}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            left, right = _halves(token, ranks)
            merges.append(("".join(signs[b] for b in left), "".join(signs[b] for b in right)))
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    known = tokenizer.get_vocab()
    tokenizer.add_special_tokens({"additional_special_tokens": [token for token in MARKUP if token not in known]})
    tokenizer.add_tokens([token for token in PLAIN if token not in known])
    tokenizer.add_special_tokens({"additional_special_tokens": list(PIXEL)})
    return tokenizer


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = ((ranks.get(a + b, len(ranks)), place) for place, (a, b) in enumerate(pairwise(parts)))
        _, place = min(pairs)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


def _signs() -> dict[int, str]:
    """The printable character that byte-level BPE writes for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    signs = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in signs)
    return signs | {byte: chr(0x100 + place) for place, byte in enumerate(rest)}
