"""``response_format``: what the content of an answer looks like, and what of it can be promised.

The model writes plain words. What is promised is what the server puts together: JSON of the words and of the objects
with scores, boxes and masks, and the choice of one text among some, to which the model's words are held.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from unipixel.engine.answer import Answer
from unipixel.serve.errors import ApiError
from unipixel.serve.responses import dump_json
from unipixel.serve.serializers import build_object

MAX_CHOICES, MAX_CHOICE = 256, 200
"""Texts of a choice, and characters of one."""
MAX_DEPTH = 16
"""References of a schema that are followed one into the other."""
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_OBJECT: dict[str, Any] = {
    "id": {"type": "integer"},
    "label": {"type": "string"},
    "score": {"type": ["number", "null"]},
    "is_there": {"type": "boolean"},
    "boxes_xyxy": {"type": "array", "items": {"type": ["array", "null"], "items": {"type": "number"}}},
    "visible": {"type": "array", "items": {"type": "boolean"}},
    "frame_scores": _NUMBERS,
    "size": {"type": "array", "items": {"type": "integer"}},
    "rles": {
        "type": "array",
        "items": {
            "type": ["object", "null"],
            "properties": {"size": {"type": "array", "items": {"type": "integer"}}, "counts": {"type": "string"}},
        },
    },
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "objects": {"type": "array", "items": {"type": "object", "properties": _OBJECT}},
    },
}
"""What an answer holds, as a schema; fields of an object as in `ObjectOut`, one box and mask for each frame."""
PLAIN_FIELDS = ("id", "label", "score", "is_there", "boxes_xyxy")
"""What is said of an object where no schema asks for more."""
_KEYWORDS = {"type", "anyOf", "properties", "required", "items", "additionalProperties", "$ref", "$defs"}
_NOTES = {"title", "description", "$schema", "default", "examples"}
"""Keywords that promise nothing."""


Plan: TypeAlias = "dict[str, Plan] | None"
"""Fields of an object, or of every object of a list, that are written, and what of each; None: all of it."""


class AnswerFormat:
    """The form of an answer's content.

    Args:
        given: the request's ``response_format``.

    Attributes:
        choices: the texts of which the schema wants one; empty if it wants none.

    Raises:
        ApiError: it asks for something that cannot be promised.
    """

    def __init__(self, given: Mapping[str, Any] | None) -> None:
        self.choices = tuple[str, ...]()
        self._choice_name = ""
        self._definitions: Any = None
        self._plan: Plan = None
        kind = "text" if given is None else given.get("type")
        if kind not in ("text", "json_object", "json_schema"):
            raise _refuse(f"the type is {str(kind)[:40]!r}; it must be 'text', 'json_object' or 'json_schema'")
        self.is_json = kind != "text"
        if self.is_json and given is not None:
            schema: Any = {"type": "object"}
            if kind == "json_schema":
                schema = given.get("json_schema")
                schema = schema.get("schema") if isinstance(schema, Mapping) else None
            self._definitions = schema.get("$defs") if isinstance(schema, Mapping) else None
            self._plan = self._build_plan(schema, _ANSWER, "the answer")

    def write(self, answer: Answer) -> str:
        """The content for an answer.

        Raises:
            ApiError: the reply was cut off before its choice was complete.
        """
        if not self.is_json:
            return answer.text
        chosen = next((one for one in self.choices if _normalize(one) == _normalize(answer.text)), None)
        if self.choices and chosen is None:
            raise ApiError(400, "max_tokens is too small for a whole choice", code="too_long", param="max_tokens")
        objects = [json.loads(dump_json(build_object(one, answer.text))) for one in answer.objects]
        return dump_json(_select(self._plan, {self._choice_name: chosen, "text": answer.text, "objects": objects}))

    def _build_plan(self, asked: Any, ours: Mapping[str, Any], where: str) -> Plan:
        """What of a value of the form ``ours`` a schema asks for, which every such value has to fit."""
        options, plan = list(self._list_options(asked, where, 0)), None
        for kind in ours["type"] if isinstance(ours["type"], list) else [ours["type"]]:
            wider = {kind, "number"} if kind == "integer" else {kind}
            fitting = next((one for one in options if not _list_types(one) or wider & set(_list_types(one))), None)
            if fitting is None:
                raise _refuse(f"{where} can be of the type {kind}, which the schema does not allow")
            if kind == "array":
                plan = self._build_plan(fitting.get("items", {}), ours["items"], f"what is in {where}")
            elif kind == "object":
                plan = self._build_object_plan(fitting, ours["properties"], where)
        return plan

    def _build_object_plan(self, asked: Mapping[str, Any], ours: Mapping[str, Any], where: str) -> Plan:
        properties, required = asked.get("properties", {}), asked.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise _refuse(f"the properties of {where} are no object, or what is required no list")
        names = [str(name) for name in dict.fromkeys([*properties, *map(str, required)])]
        if not names:
            names = [name for name in ours if ours is not _OBJECT or name in PLAIN_FIELDS]
        plan: dict[str, Plan] = {}
        for name in names:
            if name in ours:
                plan[name] = self._build_plan(properties.get(name, {}), ours[name], f"'{name}'")
            elif where == "the answer" and not self.choices and self._take_choice(name, properties.get(name)):
                plan[name] = None
            else:
                known = ", ".join(ours) + (" and one more, with an enum of texts" if where == "the answer" else "")
                raise _refuse(f"there is no '{name[:40]}' in {where}; it can have {known}")
        return plan

    def _take_choice(self, name: str, asked: Any) -> bool:
        """Whether a property is a choice among texts, which are noted."""
        asked = self._follow(asked) if isinstance(asked, Mapping) else {}
        texts = asked.get("enum")
        if not isinstance(texts, list) or set(asked) - _NOTES - {"type", "enum"} or asked.get("type") != "string":
            return False
        if not 0 < len(texts) <= MAX_CHOICES or any(not isinstance(t, str) or len(t) > MAX_CHOICE for t in texts):
            raise _refuse(f"'{name[:40]}' must have 1 to {MAX_CHOICES} texts of at most {MAX_CHOICE} characters")
        self.choices, self._choice_name = tuple(texts), name
        return True

    def _list_options(self, asked: Any, where: str, depth: int) -> Iterator[Mapping[str, Any]]:
        """The schemas of which a value may fit any."""
        if not isinstance(asked, Mapping):
            raise _refuse(f"the schema of {where} is missing, or is no object")
        asked = self._follow(asked)
        if unknown := sorted(set(map(str, asked)) - _KEYWORDS - _NOTES):
            known = ", ".join(sorted(_KEYWORDS))
            raise _refuse(f"'{unknown[0][:40]}' of {where} cannot be promised; known are {known}")
        if "anyOf" not in asked:
            yield asked
            return
        if not isinstance(asked["anyOf"], list) or depth == MAX_DEPTH:
            raise _refuse(f"anyOf of {where} is no list, or refers to itself")
        for one in asked["anyOf"]:
            yield from self._list_options(one, where, depth + 1)

    def _follow(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a schema refers to."""
        for _ in range(MAX_DEPTH):
            if "$ref" not in asked:
                return asked
            name = str(asked["$ref"]).removeprefix("#/$defs/")
            found = self._definitions.get(name) if isinstance(self._definitions, Mapping) else None
            if not isinstance(found, Mapping):
                raise _refuse(f"it refers to {str(asked['$ref'])[:80]!r}, which is not under $defs")
            asked = found
        raise _refuse("it refers to itself")


def _select(plan: Plan, value: Any) -> Any:
    """The planned part of a value; of a list, of everything in it."""
    if isinstance(value, list):
        return [_select(plan, one) for one in value]
    if isinstance(value, dict) and plan is not None:
        return {name: _select(one, value[name]) for name, one in plan.items()}
    return value


def read_reply(content: str) -> str:
    """The words of an earlier answer: of JSON its ``text``, of all else the content."""
    if content.lstrip().startswith("{"):
        try:
            text = json.loads(content).get("text")
        except ValueError:
            return content
        return text if isinstance(text, str) else content
    return content


def _list_types(asked: Mapping[str, Any]) -> list[str]:
    kind = asked.get("type", [])
    return [kind] if isinstance(kind, str) else [str(one) for one in kind] if isinstance(kind, list) else []


def _normalize(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


def _refuse(message: str) -> ApiError:
    return ApiError(400, f"response_format: {message}", code="bad_request", param="response_format")
