"""``response_format``: answers as JSON that keeps to the schema, and refusals of what cannot be promised."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, Literal

import openai
import pytest
from live import EXAMPLES, Live, data_url
from pydantic import BaseModel

from unipixel.serve.errors import ApiError
from unipixel.serve.openai.answer_format import AnswerFormat

PICTURE = data_url(EXAMPLES / "picture.png")
DOG = "Please segment the dog in this image."


class Thing(BaseModel):
    label: str
    score: float | None
    boxes_xyxy: list[list[float] | None]


class Things(BaseModel):
    objects: list[Thing]
    text: str


class Animal(Enum):
    CAT = "cat"
    DOG = "dog"


class Guess(BaseModel):
    animal: Animal
    objects: list[Thing]


@pytest.fixture(scope="module")
def client(nano: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{nano.url}/v1", api_key="none", max_retries=0)


def user(text: str, *, with_picture: bool = True) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": PICTURE}}] if with_picture else []
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def by_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def test_json_object_holds_the_words_and_the_objects(client: openai.OpenAI, nano: Live) -> None:
    expected = nano.engine.ask(str(EXAMPLES / "picture.png"), DOG)
    reply = client.chat.completions.create(model="nano", messages=[user(DOG)], response_format={"type": "json_object"})
    found = json.loads(reply.choices[0].message.content or "")
    (one,) = found["objects"]
    assert found["text"] == expected.text and set(one) == {"id", "label", "score", "is_there", "boxes_xyxy"}
    assert one["boxes_xyxy"] == expected.objects[0].to_json()["boxes_xyxy"] and one["label"] == "dog"
    assert reply.choices[0].message.unipixel["objects"][0]["rles"]


def test_schema_of_the_clients_own_classes_is_kept(client: openai.OpenAI, nano: Live) -> None:
    expected = nano.engine.ask(str(EXAMPLES / "picture.png"), DOG)
    reply = client.chat.completions.parse(model="nano", messages=[user(DOG)], response_format=Things)
    things = reply.choices[0].message.parsed
    assert things is not None and things.text == expected.text
    assert [one.label for one in things.objects] == ["dog"] and things.objects[0].score is not None


@pytest.mark.parametrize("stream", [False, True])
def test_a_choice_is_one_of_its_texts(client: openai.OpenAI, stream: bool) -> None:
    question = "What is this? Is it a dog or a cat?"
    asked: dict[str, Any] = {"model": "nano", "messages": [user(question)]}
    if stream:
        schema = {"type": "object", "properties": {"animal": {"type": "string", "enum": ["cat", "dog"]}}}
        chunks = list(client.chat.completions.create(**asked, stream=True, response_format=by_schema(schema)))
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert json.loads(content)["animal"] in ("cat", "dog")
        return
    reply = client.chat.completions.parse(**asked, response_format=Guess)
    assert reply.choices[0].message.parsed is not None and reply.choices[0].finish_reason == "stop"
    for only in ("rhinoceros of the moon", "ein schönes Bild"):
        schema = {"type": "object", "properties": {"it": {"type": "string", "enum": [only]}, "text": {}}}
        told = client.chat.completions.create(**asked, response_format=by_schema(schema)).choices[0].message.content
        assert json.loads(told or "") == {"it": only, "text": only}
    with pytest.raises(openai.BadRequestError, match="max_tokens is too small"):
        client.chat.completions.create(**asked, response_format=by_schema(schema), max_tokens=1)


@pytest.mark.parametrize("kept", [True, False])
def test_conversations_go_on_behind_json(client: openai.OpenAI, nano: Live, kept: bool) -> None:
    form: Any = {"type": "json_object"}
    first = client.chat.completions.create(model="nano", messages=[user(DOG)], response_format=form)
    if not kept:
        nano.runtime.session_cache.pop_expired(-1.0)
    told = {"role": "assistant", "content": first.choices[0].message.content}
    messages: list[Any] = [user(DOG), told, user("What is [1]?", with_picture=False)]
    second = client.chat.completions.create(model="nano", messages=messages, response_format=form)
    with nano.engine.open(str(EXAMPLES / "picture.png")) as session:
        session.ask(DOG)
        expected = session.ask("What is [1]?").text
    assert json.loads(second.choices[0].message.content or "")["text"] == expected


SIZES = {"type": "array", "items": {"type": "integer"}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"type": "grammar"}, "the type is 'grammar'; it must be 'text', 'json_object' or 'json_schema'"),
        ({"type": "json_schema"}, "the schema of the answer is missing"),
        ({"type": "json_schema", "json_schema": {"schema": 1}}, "the schema of the answer is missing, or is no object"),
        (by_schema({"type": "array", "items": {}}), "the answer can be of the type object"),
        (by_schema({"type": "object", "properties": {"colour": {"type": "string"}}}), "there is no 'colour' in the an"),
        (by_schema({"type": "object", "required": ["colour"]}), "there is no 'colour' in the answer"),
        (by_schema({"type": "object", "properties": {"text": {"type": "number"}}}), "'text' can be of the type string"),
        (by_schema({"type": "object", "properties": {"text": {"type": "string", "pattern": "^a"}}}), "'pattern' of 't"),
        (by_schema({"type": "object", "properties": {"text": {"type": "string", "enum": ["a"]}}}), "'enum' of 'text'"),
        (
            by_schema({"type": "object", "properties": {"objects": {"type": "array", "items": {"required": ["x"]}}}}),
            "there is no 'x' in what is in 'objects'; it can have id, label",
        ),
        (
            by_schema(
                {
                    "type": "object",
                    "properties": {
                        "objects": {"type": "array", "items": {"properties": {"score": {"type": "number"}}}},
                    },
                }
            ),
            "'score' can be of the type null",
        ),
        (by_schema({"type": "object", "properties": {"a": {"type": "string", "enum": [1]}}}), "'a' must have 1 to 256"),
        (
            by_schema({"properties": {n: {"type": "string", "enum": ["x"]} for n in "ab"}}),
            "there is no 'b' in the answer",
        ),
        (by_schema({"$ref": "#/$defs/A"}), "it refers to '#/$defs/A', which is not under $defs"),
        (by_schema({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}), "it refers to itself"),
        (by_schema({"$ref": "#/$defs/A", "$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}]}}}), "or refers to itself"),
        (by_schema({"anyOf": 1}), "anyOf of the answer is no list"),
        (by_schema({"properties": [], "required": []}), "the properties of the answer are no object"),
    ],
)
def test_what_cannot_be_promised_is_refused_in_one_sentence(given: dict[str, Any], words: str, quick: Live) -> None:
    body = {"model": "nano", "messages": [user(DOG)], "response_format": given}
    error = quick.post("/v1/chat/completions", body, 400)["error"]
    assert words in error["message"] and error["param"] == "response_format" and "\n" not in error["message"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {},
        {"type": ["object", "null"], "title": "Answer", "additionalProperties": False},
        {"type": "object", "properties": {"objects": {"items": {"properties": {"id": {"type": "number"}}}}}},
        {
            "properties": {
                "objects": {"items": {"properties": {"score": {"anyOf": [{"type": "null"}, {"type": "number"}]}}}}
            }
        },
        {"properties": {"objects": {"items": {"properties": {"rles": {"items": {"anyOf": [{}]}}, "size": SIZES}}}}},
    ],
)
def test_schemas_that_every_answer_fits_are_taken(schema: Any) -> None:
    assert AnswerFormat(by_schema(schema)).is_json and not AnswerFormat(by_schema(schema)).choices


def test_plain_text_stays_plain() -> None:
    for given in (None, {"type": "text"}):
        assert not AnswerFormat(given).is_json
    with pytest.raises(ApiError):
        AnswerFormat({})


def test_literal_of_one_class_is_a_choice() -> None:
    class Colour(BaseModel):
        colour: Literal["red", "green"]

    assert AnswerFormat(by_schema(Colour.model_json_schema())).choices == ("red", "green")
