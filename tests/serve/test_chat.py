"""OpenAI's chat against nano, with OpenAI's own client: the same words and masks as from the engine."""

from __future__ import annotations

import json
import threading
from typing import Any

import openai
import pytest
from live import EXAMPLES, Live, data_url, events, wait_for
from typer.testing import CliRunner

from unipixel.cli import app
from unipixel.engine.answer import Answer
from unipixel.sample import Box, Point

PICTURE, CLIP = EXAMPLES / "picture.png", EXAMPLES / "clip.mp4"
DOG = "Please segment the dog in this image."


@pytest.fixture(scope="module")
def client(nano: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{nano.url}/v1", api_key="none", max_retries=0)


def user(text: str, **media: str) -> dict[str, Any]:
    parts = [{"type": kind, kind: {"url": url}} for kind, url in media.items()]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def picture(text: str = DOG) -> dict[str, Any]:
    return user(text, image_url=data_url(PICTURE))


def same_objects(given: list[dict[str, Any]], answer: Answer) -> None:
    assert [one["id"] for one in given] == [one.id for one in answer.objects]
    for one, other in zip(given, answer.objects, strict=True):
        assert one["rles"] == other.to_json()["rles"]
        assert one["boxes_xyxy"] == other.to_json()["boxes_xyxy"]


def test_openai_client_gets_the_engines_words_and_masks_for_a_picture(client: openai.OpenAI, nano: Live) -> None:
    expected = nano.engine.ask(str(PICTURE), DOG)
    reply = client.chat.completions.create(model="nano", messages=[picture()])
    choice = reply.choices[0]
    assert choice.message.content == expected.text and choice.finish_reason == "stop"
    same_objects(choice.message.unipixel["objects"], expected)
    one, text = choice.message.unipixel["objects"][0], expected.text
    assert text[slice(*one["mark_span"])] == "[1]" and text[slice(*one["label_span"])] == "dog"
    assert 0 < one["score"] <= 1 and one["is_there"]
    assert reply.usage.completion_tokens == len(expected.tokens)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_things_are_asked_for_one_by_one_if_wanted(client: openai.OpenAI, nano: Live) -> None:
    text = "Please segment the dog and the car."
    for each in (True, False):
        reply = client.chat.completions.create(
            model="nano", messages=[picture(text)], extra_body={"unipixel": {"each": each}}
        )
        expected = nano.engine.ask(str(PICTURE), text, each=each)
        assert reply.choices[0].message.content == expected.text
        same_objects(reply.choices[0].message.unipixel["objects"], expected)


def test_stream_with_a_point_on_a_video_ends_with_the_engines_masks(client: openai.OpenAI, nano: Live) -> None:
    point = Point(100, 100, frame=1)
    expected = nano.engine.ask(str(CLIP), "What is this?", prompts=[point], num_frames=2, force=True)
    extra = {
        "prompts": [{"type": "point", "x": 100, "y": 100, "frame": 1}],
        "num_frames": 2,
        "force": True,
        "stream_masks": True,
    }
    stream = client.chat.completions.create(
        model="nano",
        messages=[user("What is this?", video_url=data_url(CLIP, "video/mp4"))],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"unipixel": extra},
    )
    *chunks, usage = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == expected.text
    assert sorted(d.unipixel["masks"]["frame"] for d in deltas if "masks" in (d.model_extra or {}).get("unipixel", {}))
    same_objects(deltas[-1].unipixel["objects"], expected)
    assert deltas[-1].unipixel["media"]["frame_indices"] == list(expected.clip.frame_indices)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert usage.choices == [] and usage.usage.completion_tokens == len(expected.tokens)


@pytest.mark.parametrize("kept", [True, False])
def test_second_turn_goes_on_where_the_first_ended(client: openai.OpenAI, nano: Live, kept: bool) -> None:
    with nano.engine.open(str(PICTURE)) as session:
        first = session.ask(DOG)
        second = session.ask("Please segment [1] and the rocket.")
    messages = [picture(), {"role": "assistant", "content": first.text}, user("Please segment [1] and the rocket.")]
    if kept:
        client.chat.completions.create(model="nano", messages=messages[:1])
        assert len(nano.runtime.session_cache) > 0
    else:
        nano.runtime.session_cache.pop_expired(-1.0)  # nothing is kept: the history is read anew
    reply = client.chat.completions.create(model="nano", messages=messages)
    assert reply.choices[0].message.content == second.text
    same_objects(reply.choices[0].message.unipixel["objects"], second)


def test_words_of_an_earlier_answer_are_read_as_they_were_sent(client: openai.OpenAI) -> None:
    messages = [picture("What is this?"), {"role": "assistant", "content": "A very odd scene."}, user(DOG)]
    reply = client.chat.completions.create(model="nano", messages=messages)
    assert [one["id"] for one in reply.choices[0].message.unipixel["objects"]] == [1]


def test_history_with_objects_that_the_model_did_not_give_is_refused(client: openai.OpenAI) -> None:
    messages = [picture(), {"role": "assistant", "content": "the elephant [1]"}, user("What colour is [1]?")]
    with pytest.raises(openai.BadRequestError, match="send answers that mention objects unchanged") as caught:
        client.chat.completions.create(model="nano", messages=messages)
    assert caught.value.code == "history_changed"


def test_box_goes_in_with_its_message_and_a_mask_comes_out(client: openai.OpenAI, nano: Live) -> None:
    expected = nano.engine.ask(str(PICTURE), None, prompts=[Box(40, 40, 160, 160, object_id=7)], force=True)
    prompts = [{"type": "box", "box": [40, 40, 160, 160], "object_id": 7}]
    message = {**picture(""), "unipixel": {"prompts": prompts, "force": True}}
    reply = client.chat.completions.create(model="nano", messages=[message])
    same_objects(reply.choices[0].message.unipixel["objects"], expected)
    assert reply.choices[0].message.unipixel["objects"][0]["id"] == 7


def test_questions_that_are_answered_together_get_their_own_answers(nano: Live) -> None:
    things = ["dog", "rocket", "pizza"]
    questions = [f"Please segment the {thing} in this image." for thing in things]
    expected = [nano.engine.ask(str(PICTURE), question) for question in questions]
    replies: dict[int, Any] = {}

    def ask(place: int) -> None:
        body = {"model": "nano", "messages": [picture(questions[place])]}
        replies[place] = nano.post("/v1/chat/completions", body)["choices"][0]["message"]

    worker, is_open = nano.runtime.worker, threading.Event()
    with worker._condition:  # the model's thread is busy until all of them wait
        worker._calls.append(lambda: is_open.wait(20))
        worker._condition.notify()
    threads = [threading.Thread(target=ask, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: worker.num_waiting == 3)
    is_open.set()
    for thread in threads:
        thread.join()
    for place, answer in enumerate(expected):
        assert replies[place]["content"] == answer.text
        same_objects(replies[place]["unipixel"]["objects"], answer)
    text = nano.http.get("/metrics").text
    alone, all_of_them = (
        float(text.split(f'unipixel_decode_together_bucket{{le="{le}"}} ')[1].split()[0]) for le in ("1.0", "+Inf")
    )
    assert all_of_them > alone  # some tokens were read together


def test_pictures_of_one_size_are_the_frames_of_a_clip(client: openai.OpenAI) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(PICTURE)}}
    message = {"role": "user", "content": [part, part, {"type": "text", "text": DOG}]}
    reply = client.chat.completions.create(model="nano", messages=[message])
    assert reply.choices[0].message.unipixel["media"]["num_frames"] == 2


def test_raw_stream_is_sse_that_ends_with_done(nano: Live) -> None:
    body = {"model": "nano", "messages": [picture()], "stream": True}
    answer = nano.http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [value for _, value in events(answer.text)]
    assert told[-1] == "[DONE]" and told[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {chunk["object"] for chunk in told[:-1]} == {"chat.completion.chunk"}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "there is no model 'gpt-9'"),
        ({"messages": [user("Hello")]}, openai.BadRequestError, "there is none"),
        ({"messages": [picture(), picture()], "max_tokens": 10**6}, openai.BadRequestError, "max_tokens is 1000000"),
        ({"messages": [user("x", image_url="/etc/hostname")]}, openai.BadRequestError, "is no address"),
        ({"messages": [user("x", image_url="file:///etc/hostname")]}, openai.BadRequestError, "is no address"),
        ({"messages": [user("x", image_url="data:image/png;base64,AAAA")]}, openai.BadRequestError, "neither an image"),
        ({"messages": [user("x", image_url="http://localhost:9/x")]}, openai.BadRequestError, "public internet"),
        ({"messages": [picture("<|seg|>")]}, openai.BadRequestError, "reserved token"),
        ({"messages": [picture("")]}, openai.BadRequestError, "question is empty"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"n": 2}, openai.BadRequestError, "n: Input should be 1"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
        (
            {"extra_body": {"unipixel": {"prompts": [{"type": "point", "x": 9999, "y": 1}]}}},
            openai.BadRequestError,
            "outside the frame",
        ),
        (
            {"extra_body": {"unipixel": {"prompts": [{"type": "mask", "rle": {"size": [9999, 9999], "counts": "0"}}]}}},
            openai.BadRequestError,
            "it must be the media's",
        ),
        ({"extra_body": {"unipixel": {"colour": "red"}}}, openai.BadRequestError, "colour"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_told_as_openai_tells_it(
    client: openai.OpenAI, change: dict[str, Any], error: type[openai.APIStatusError], words: str, stream: bool
) -> None:
    request = {"model": "nano", "messages": [picture()], "stream": stream, **change}
    with pytest.raises(error, match=words.replace("?", r"\?")) as caught:
        client.chat.completions.create(**request)
    assert caught.value.type in ("invalid_request_error", "not_found_error") and caught.value.code


def test_models_are_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "nano" and client.models.retrieve("nano").id == "nano"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


POINT, CORNERS = {"type": "point", "x": 100, "y": 100, "frame": 1}, [40, 40, 160, 160]
QUESTIONS: dict[str, tuple[Any, str | None, list[str], dict[str, Any]]] = {
    "picture": (PICTURE, DOG, [], {}),
    "video": (CLIP, "Please segment the rocket.", ["--num-frames", "3"], {"num_frames": 3}),
    "point": (
        CLIP,
        "What is this?",
        ["--point", "100,100@1", "--num-frames", "2"],
        {"prompts": [POINT], "num_frames": 2},
    ),
    "box": (PICTURE, None, ["--box", "40,40,160,160", "--force"], {"prompts": [{"type": "box", "box": CORNERS}]}),
}


@pytest.mark.parametrize("kind", QUESTIONS)
def test_command_line_and_api_return_the_same_masks(nano: Live, kind: str) -> None:
    media, text, options, extra = QUESTIONS[kind]
    words = [] if text is None else [text]
    shown = CliRunner().invoke(app, ["ask", str(media), *words, *options, "--json", "--device", "cpu"])
    asked = json.loads(shown.stdout)
    expected = [(one["rles"], one["boxes_xyxy"], one["visible"]) for one in asked["objects"]]
    assert any(rle is not None for rles, _, _ in expected for rle in rles)

    part = user(text or "", **{"image_url" if media == PICTURE else "video_url": data_url(media)})
    body = {"model": "nano", "messages": [part], "unipixel": {**extra, "force": "--force" in options}}
    chat = nano.post("/v1/chat/completions", body)["choices"][0]["message"]
    told = events(nano.http.post("/v1/chat/completions", json={**body, "stream": True}).text)
    (streamed,) = [v["choices"][0]["delta"] for _, v in told[:-1] if v["choices"][0]["finish_reason"]]
    address = nano.upload(media, **{name: extra[name] for name in extra if name == "num_frames"})
    session = nano.post(
        f"{address}/ask", {"text": text, "prompts": extra.get("prompts", []), "force": "--force" in options}
    )
    nano.http.delete(address)
    assert chat["content"] == session["text"] == asked["text"]
    for objects in (chat["unipixel"]["objects"], streamed["unipixel"]["objects"], session["objects"]):
        assert [(one["rles"], one["boxes_xyxy"], one["visible"]) for one in objects] == expected
