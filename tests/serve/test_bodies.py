"""The bodies of every route, as clients know them: fields, their order, nulls and types, compared with recorded ones.

What a model or a machine decides (words, scores, masks, times, ids) is replaced by its type, so that the record holds
for every checkpoint. ``python tests/serve/test_bodies.py`` writes the record again, where a change is meant.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from live import EXAMPLES, Live, data_url, events, running

RECORD = Path(__file__).with_name("bodies.json")
PICTURE, CLIP = EXAMPLES / "picture.png", EXAMPLES / "clip.mp4"
DOG = "Please segment the dog in this image."
POINT = {"type": "point", "x": 100, "y": 100, "object_id": 7}
BOX = {"type": "box", "box": [40, 40, 200, 200], "object_id": 8}
LABELS = '<Label value="dog"/><Label value="rocket"/>'
IMAGE = f"""<View><Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image">{LABELS}</BrushLabels>
  <PolygonLabels name="polygon" toName="image">{LABELS}</PolygonLabels>
  <RectangleLabels name="box" toName="image">{LABELS}</RectangleLabels>
  <KeyPointLabels name="click" toName="image" smart="true">{LABELS}</KeyPointLabels></View>"""
VIDEO = """<View><Video name="video" value="$video"/><VideoRectangle name="track" toName="video"/>
  <Labels name="labels" toName="video"><Label value="dog"/></Labels></View>"""
DECIDED = {
    "id", "created", "text", "raw_text", "content", "label", "mark_span", "label_span", "completion_tokens",
    "total_tokens", "parameters", "version", "model_version", "versions", "counts", "rle", "points", "sequence",
    "question", "timings_s", "device", "dtype", "default_num_frames", "score", "area", "prompt_tokens", "finish_reason",
    "message",
}  # fmt: skip
"""Fields whose values are not compared, only their types."""


def kind(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: kind(one) for name, one in value.items()}
    if isinstance(value, list):
        return [kind(value[0])] if value else []
    return None if value is None else f"<{type(value).__name__}>"


def outline(value: Any) -> Any:
    """A body with types in the place of what a model or a machine decides."""
    if isinstance(value, dict):
        plain = {
            name: kind(one) if name in DECIDED and not isinstance(one, dict) else outline(one)
            for name, one in value.items()
        }
        return {**plain, "timings_s": "<seconds by stage>"} if "timings_s" in plain else plain
    if isinstance(value, list):
        return [outline(one) for one in value]
    return "<float>" if isinstance(value, float) else value


def prompted(body: Any) -> Any:
    """Without objects that only a model's words have made."""
    if isinstance(body, dict) and "objects" in body:
        return {**body, "objects": [one for one in body["objects"] if not isinstance(one, dict) or one["id"] in (7, 8)]}
    return body


def first_text(told: list[tuple[str, Any]], *names: str) -> list[tuple[str, Any]]:
    """Events with only the first of those of one name that come as often as a model likes."""
    return [one for place, one in enumerate(told) if one[0] not in names or one[0] not in {n for n, _ in told[:place]}]


def collect(live: Live) -> dict[str, Any]:
    """A body of every route, by name."""
    found: dict[str, Any] = {}
    found["models"] = live.get("/v1/models")
    found["model"] = live.get("/v1/models/nano")
    found["folder"] = live.get("/v1/folder")
    done = {"picture.png": {"session": "", "state": "done"}}
    found["progress in the folder"] = live.http.patch("/v1/folder", json={"items": done, "classes": ["dog"]}).json()
    found["health"] = {**live.get("/health"), "waiting": 0, "running": 0, "memory_bytes": 1}
    opened = live.upload(PICTURE)
    found["session of a picture"] = live.get(opened)
    found["session of a clip"] = live.post("/v1/sessions", {"url": data_url(CLIP, "video/mp4"), "num_frames": 3}, 201)
    live.http.delete(f"/v1/sessions/{found['session of a clip']['id']}")
    found["segment"] = live.post(f"{opened}/objects", {"prompts": [POINT, BOX], "label": "thing"})
    found["correct"] = live.post(f"{opened}/objects/7/prompts", {"prompts": [{**POINT, "x": 110, "positive": False}]})
    found["retract"] = live.http.delete(f"{opened}/objects/7/prompts/-1").json()
    found["track"] = live.post(f"{opened}/track", {"objects": [7]})
    found["rename"] = live.http.patch(f"{opened}/objects/7", json={"label": "other"}).json()
    found["object"] = live.get(f"{opened}/objects/8")
    found["objects"] = live.get(f"{opened}/objects")
    asked = {"text": "What is [7]?", "max_tokens": 3}
    found["ask"] = prompted(live.post(f"{opened}/ask", {**asked, "prompts": [{**POINT, "object_id": 8}]}))
    found["session"] = prompted(live.get(opened))
    found["session"]["turns"] = [prompted(turn) | {"objects": "<ids>"} for turn in found["session"]["turns"]]
    found["saved"] = {**prompted(live.post(f"{opened}/save", {})), "turns": "<turns>"}
    found["sessions"] = live.get("/v1/sessions")
    found["keepalive"] = live.post(f"{opened}/keepalive", {})
    live.http.patch(f"{opened}/objects/7", json={"label": "other"})
    found["undo"] = {**prompted(live.post(f"{opened}/undo", {})), "turns": "<turns>"}
    found["redo"] = {**prompted(live.post(f"{opened}/redo", {})), "turns": "<turns>"}
    rles = next(one["rles"] for one in found["objects"]["objects"] if one["id"] == 8)
    found["put"] = live.http.put(f"{opened}/objects/8", json={"label": "other", "rles": rles}).json()
    found["stop"] = live.post(f"{opened}/stop", {})
    told = events(live.http.post(f"{opened}/objects", json={"prompts": [POINT], "stream": True}).text)
    found["segment, streamed"] = [[name, prompted(body)] for name, body in told]
    told = events(live.http.post(f"{opened}/ask", json={**asked, "stream": True}).text)
    found["ask, streamed"] = [[name, prompted(body)] for name, body in first_text(told, "text", "masks")]
    found["export"] = live.get(f"{opened}/export", format="coco", objects=8)
    found["export of a set"] = live.get("/v1/export", format="coco", session=opened.rpartition("/")[2])
    found["no session"] = live.get("/v1/sessions/s-nothing", 404)
    found["no object"] = live.get(f"{opened}/objects/99", 404)
    found["bad prompt"] = live.post(f"{opened}/objects", {"prompts": [{**POINT, "x": 10_000}]}, 400)
    found["bad field"] = live.post(f"{opened}/ask", {"text": 3}, 400)
    live.http.delete(opened)
    chat: dict[str, Any] = {
        "model": "nano",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": data_url(PICTURE)}},
                    {"type": "text", "text": DOG},
                ],
            }
        ],
        "unipixel": {"prompts": [BOX], "force": True},
    }
    whole = live.post("/v1/chat/completions", chat)
    message = whole["choices"][0]["message"]
    message["unipixel"] = prompted(message["unipixel"])
    found["chat"] = whole
    chat |= {"stream": True, "stream_options": {"include_usage": True}}
    chat["unipixel"] |= {"stream_masks": True}
    chunks = [body for _, body in events(live.http.post("/v1/chat/completions", json=chat).text)]
    words = [one for one in chunks if one != "[DONE]" and one["choices"] and "content" in one["choices"][0]["delta"]]
    found["chat, streamed"] = words[:2] + [one for one in chunks if one not in words]
    for one in found["chat, streamed"]:
        for choice in one["choices"] if one != "[DONE]" else ():
            if "unipixel" in choice["delta"] and "media" in choice["delta"]["unipixel"]:
                choice["delta"]["unipixel"] = prompted(choice["delta"]["unipixel"])
    masks = [one for one in found["chat, streamed"] if "masks" in json.dumps(one)]
    found["chat, streamed"] = [one for one in found["chat, streamed"] if one not in masks[1:]]
    found["chat, refused"] = live.post("/v1/chat/completions", {**chat, "model": "other"}, 404)
    task = {"id": 1, "data": {"image": data_url(PICTURE)}}
    click = {
        "id": "a", "type": "keypointlabels", "from_name": "click", "to_name": "image", "original_width": 336,
        "original_height": 336, "is_positive": True, "value": {"x": 30, "y": 30, "keypointlabels": ["dog"]},
    }  # fmt: skip
    drawn = {"tasks": [task], "label_config": IMAGE, "params": {"context": {"result": [click]}}}
    found["predict"] = live.post("/predict", drawn)
    for one in found["predict"]["results"]:
        first = {region["type"]: region for region in reversed(one["result"])}
        one["result"] = [first[name] for name in sorted(first)]
    box = {
        "id": "b", "type": "videorectangle", "from_name": "track", "to_name": "video",
        "value": {"sequence": [{"frame": 1, "x": 10, "y": 10, "width": 50, "height": 50}], "labels": ["dog"],
                  "framesCount": 8, "duration": 1.0},
    }  # fmt: skip
    film = {"id": 2, "data": {"video": data_url(CLIP, "video/mp4")}}
    followed = {"tasks": [film], "label_config": VIDEO, "params": {"context": {"result": [box]}}}
    found["predict on a video"] = live.post("/predict", followed)
    broken = {"id": 2, "data": {"image": "data:image/png;base64,AAAA"}}
    mixed = live.post("/predict", {"tasks": [task, broken], "label_config": IMAGE})
    found["predict, one failed"] = {**mixed, "results": [bool(one) for one in mixed["results"]]}
    found["setup"] = live.post("/setup", {"schema": IMAGE})
    found["validate"] = live.post("/validate", {"config": IMAGE})
    found["versions"] = live.get("/versions")
    found["webhook"] = live.post("/webhook", {"action": "ANNOTATION_CREATED"})
    return found


def test_bodies_are_those_that_clients_know(nano_engine: Any, tmp_path: Path) -> None:
    with running(nano_engine, state=tmp_path, folder=EXAMPLES) as live:
        found = collect(live)
        paths = live.get("/openapi.json")["paths"]
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    assert list(found) == list(recorded)
    for name, body in found.items():
        assert json.dumps(outline(body), indent=1) == json.dumps(recorded[name], indent=1), (
            name
        )  # the order of fields, too
    assert len(paths) == 29  # a new route needs a body here


def test_outline_sees_a_field_that_is_missing_or_null() -> None:
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))["object"]
    assert outline({**recorded, "score": None}) != recorded
    assert outline({name: value for name, value in recorded.items() if name != "visible"}) != recorded


if __name__ == "__main__":
    import tempfile

    import unipixel

    engine = unipixel.load(device="cpu")
    with tempfile.TemporaryDirectory() as state, running(engine, state=Path(state), folder=EXAMPLES) as live:
        bodies = {name: outline(body) for name, body in collect(live).items()}
    RECORD.write_text(json.dumps(bodies, indent=1) + "\n", encoding="utf-8")
