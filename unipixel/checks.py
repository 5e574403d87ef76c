"""Values out of files that others may have written: of the right type, finite and within bounds, or a `ValueError`.

Python's JSON reader takes ``NaN`` and ``Infinity``, which are no JSON, and makes floats and ints of any size; nothing
trusts what comes out of it before it has been through here. Every message is one sentence that names the field, its
value and what would be right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NoReturn
from xml.etree import ElementTree

MAX_INTEGER = (1 << 53) - 1
"""Largest whole number that every reader of JSON keeps exactly, and that no tensor or array has to refuse."""


def parse_json(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        allow_nan: take ``NaN`` and ``Infinity``, as Python writes them, for figures that may be undefined.

    Raises:
        ValueError: it is no JSON, or is nested too deep.
    """
    try:
        return json.loads(text, parse_constant=None if allow_nan else _refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def parse_xml(text: str) -> ElementTree.Element:
    """The root of an XML text. What declares a document type is refused, since only there entities can be defined.

    Raises:
        ValueError: it is no XML, or declares a document type.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares a document type, which none needs")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"it is no XML ({error})") from error


def check_integer(value: Any, name: str, low: int = 0, high: int = MAX_INTEGER) -> int:
    """A whole number from ``low`` to ``high``, both included."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {shorten(value)}; it must be a whole number from {low} to {high}")
    return value


def check_number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number from ``low`` to ``high``, both included."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER
    if not is_number or not low <= value <= high:
        bounds = "" if math.isinf(high) else f" from {low:g} to {high:g}"
        raise ValueError(f"{name} is {shorten(value)}; it must be a finite number{bounds}")
    return float(value)


def check_text(value: Any, name: str) -> str:
    """Text that can be written anywhere: without lone surrogates, which JSON has ways to spell."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shorten(value)}; it must be text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{name} is {shorten(value)}, which is not valid Unicode text") from None
    return value


def check_flag(value: Any, name: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shorten(value)}; it must be true or false")
    return value


def check_list(value: Any, name: str, length: int | None = None) -> list[Any]:
    """A list, of ``length`` entries if that is given."""
    if not isinstance(value, list):
        raise ValueError(f"{name} is {shorten(value)}; it must be a list")
    if length is not None and len(value) != length:
        raise ValueError(f"{name} is {shorten(value)}; it must have {length} entries, not {len(value)}")
    return value


def check_mapping(value: Any, name: str, needed: Iterable[str] = ()) -> dict[str, Any]:
    """A mapping that has the ``needed`` fields."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {shorten(value)}; it must be a mapping")
    lacking = next((field for field in needed if field not in value), None)
    if lacking is not None:
        raise ValueError(f"{name} lacks the field {lacking!r}")
    return value


def check_like(value: Any, model: Any, name: str) -> None:
    """A value of the same build as another one: lists as long, mappings with no other fields, numbers finite."""
    if isinstance(model, bool | str) or model is None:
        if type(value) is not type(model):
            raise ValueError(f"{name} is {shorten(value)}; it must be of the kind of {shorten(model)}")
    elif isinstance(model, int):
        check_integer(value, name, -MAX_INTEGER)
    elif isinstance(model, float):
        check_number(value, name)
    elif isinstance(model, list | tuple):
        for place, (one, other) in enumerate(zip(check_list(list_of(value), name, len(model)), model, strict=True)):
            check_like(one, other, f"{name}[{place}]")
    elif isinstance(model, dict):
        unknown = next((key for key in check_mapping(value, name) if key not in model), None)
        if unknown is not None:
            raise ValueError(f"{name} has the field {shorten(unknown)}, which does not belong there")
        for key, one in value.items():
            check_like(one, model[key], f"{name}.{key}")


def list_of(value: Any) -> Any:
    """A tuple as a list; anything else as it is."""
    return list(value) if isinstance(value, tuple) else value


def shorten(value: Any) -> str:
    """A value of unknown length as messages write it, in ASCII and on one line."""
    if isinstance(value, list | tuple | dict) and len(value) > 20:
        return f"a {type(value).__name__} of {len(value)} entries"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of many digits"
    text = ascii(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def join_lines(error: Exception) -> str:
    """What an error of another package says, on one line and not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
