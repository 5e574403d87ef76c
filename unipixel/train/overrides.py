"""``--set a.b=value``: one field of a recipe, by its path, with a value of the field's own type."""

from __future__ import annotations

import difflib
import types
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

R = TypeVar("R")
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


def override(record: R, settings: Sequence[str]) -> R:
    """The record with fields replaced.

    Args:
        settings: texts such as ``"steps=300"``, ``"losses.dice=2"``, ``"rates.segmenter=1e-5"`` (an entry of a
            mapping), ``"trainable=seg_head,segmenter"`` (entries of a tuple) or ``"lora=none"``.

    Raises:
        ValueError: there is no such field, or the value does not fit it; the message says what would.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ValueError(f"the setting {setting!r} has no value; write it as field=value, such as steps=300")
        record = _replace_field(record, path.split("."), text, path)
    return record


def _replace_field(record: Any, names: Sequence[str], text: str, path: str) -> Any:
    name, rest = names[0], names[1:]
    known = {field.name for field in fields(record)}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
        raise ValueError(f"{path} is no setting of {type(record).__name__}; {hint}")
    kind, value = get_type_hints(type(record))[name], getattr(record, name)
    if not rest:
        return replace(record, **{name: _parse_value(kind, text, path)})
    if get_origin(kind) is dict:
        key_kind, value_kind = get_args(kind)
        key = _parse_value(key_kind, ".".join(rest), path)
        return replace(record, **{name: {**value, key: _parse_value(value_kind, text, path)}})
    if value is None and (inner := _find_record_type(kind)):
        value = inner()
    if not is_dataclass(value):
        raise ValueError(f"{path}: {name} has no settings of its own; give it a value as {name}=...")
    return replace(record, **{name: _replace_field(value, rest, text, path)})


def _find_record_type(kind: Any) -> Any:
    return next((one for one in get_args(kind) if is_dataclass(one)), None)


def _parse_value(kind: Any, text: str, path: str) -> Any:
    """A value of a type, from text."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if type(None) in inner and text.lower() == "none":
            return None
        kind = next(one for one in inner if one is not type(None))
        return _parse_value(kind, text, path)
    if origin is Literal:
        if text not in inner:
            raise ValueError(f"{path} is {text!r}; it should be one of {', '.join(map(repr, inner))}")
        return text
    if origin is tuple:
        return _parse_tuple(inner, text, path)
    if kind is bool:
        if text.lower() not in (*_YES, *_NO):
            raise ValueError(f"{path} is {text!r}; it should be true or false")
        return text.lower() in _YES
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"{path} is {text!r}; it should be {what}") from None
    if kind is str:
        return text
    what = "one of its own settings, as" if is_dataclass(kind) or origin is dict else "not set by text; see"
    raise ValueError(f"{path} cannot be {text!r}; give {what} {path}.NAME=VALUE")


def _parse_tuple(kinds: tuple[Any, ...], text: str, path: str) -> tuple[Any, ...]:
    parts = text.split(",") if text else []
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_parse_value(kinds[0], part, path) for part in parts)
    if len(parts) != len(kinds):
        raise ValueError(f"{path} is {text!r}; it should be {len(kinds)} values with commas between")
    return tuple(_parse_value(kind, part, path) for kind, part in zip(kinds, parts, strict=True))
