"""The sessions API: what it gives is what the engine gives."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import LONG, Live, data_url, events, running, wait_for
from PIL import Image
from pycocotools.coco import COCO

from unipixel.engine.engine import Engine
from unipixel.engine.session import Session
from unipixel.formats import read_annotations
from unipixel.masks import decode_rle, draw_outline, encode_rle, fit_outline, load_index_png
from unipixel.media import open_media
from unipixel.sample import Box, Point
from unipixel.serve.folder import FolderProgress

BOX = {"type": "box", "box": [20, 10, 50, 40]}
CLICK = {"type": "point", "x": 12, "y": 30, "positive": False, "frame": 2}


@pytest.fixture
def session(quick: Live, media: Path) -> Any:
    """The address of a session about the clip."""
    address = quick.upload(media / "clip.mp4", num_frames=3)
    yield address
    quick.http.delete(address)


@pytest.fixture
def twin(quick: Live, media: Path) -> Any:
    """The same clip in the engine."""
    with quick.engine.open(str(media / "clip.mp4"), num_frames=3) as opened:
        yield opened


def rles(objects: list[dict[str, Any]]) -> dict[int, Any]:
    return {one["id"]: one["rles"] for one in objects}


def known(twin: Session) -> dict[int, Any]:
    return {i: one.to_json()["rles"] for i, one in twin.objects.items()}


def test_upload_and_url_open_the_same_clip(quick: Live, media: Path) -> None:
    opened = quick.get(quick.upload(media / "clip.mp4", num_frames=3))
    assert opened["name"] == "clip.mp4" and opened["media"]["frame_indices"] == [0, 2, 4]
    url = data_url(media / "clip.mp4", "video/mp4")
    fetched = quick.post("/v1/sessions", {"url": url, "num_frames": 3, "name": "../a<b>.mp4"}, 201)
    assert fetched["media"] == {**opened["media"], "name": "ab.mp4"}
    listed = quick.get("/v1/sessions")["sessions"]
    assert {opened["id"], fetched["id"]} <= {one["id"] for one in listed}
    for one in (opened, fetched):
        assert quick.http.delete(f"/v1/sessions/{one['id']}").status_code == 204
        quick.get(f"/v1/sessions/{one['id']}", 404)


def test_objects_are_made_corrected_taken_back_and_tracked_as_the_engine_does(
    quick: Live, session: str, twin: Session
) -> None:
    made = quick.post(f"{session}/objects", {"prompts": [BOX], "label": "left wing"})["objects"]
    twin.segment(Box(20, 10, 50, 40), force=True)
    assert rles(made) == known(twin) and made[0]["label"] == "left wing"
    assert made[0]["prompts"] == [{**BOX, "frame": 0}]

    (corrected,) = quick.post(f"{session}/objects/1/prompts", {"prompts": [CLICK]})["objects"]
    twin.correct(1, Point(12, 30, frame=2, positive=False))
    assert corrected["rles"] == known(twin)[1] and len(corrected["prompts"]) == 2

    tracked = quick.post(f"{session}/track", {"objects": [1], "start": 2})["objects"]
    twin.track(1, start=2)
    assert rles(tracked) == {1: known(twin)[1]}
    assert rles(quick.get(f"{session}/objects")["objects"]) == known(twin)

    (back,) = quick.http.delete(f"{session}/objects/1/prompts/-1").json()["objects"]
    assert back["rles"] == made[0]["rles"] and back["label"] == "left wing"
    assert quick.http.delete(f"{session}/objects/1/prompts/0").json()["objects"] == []
    quick.get(f"{session}/objects/1", 404)


def test_earlier_prompt_taken_back_leaves_the_later_ones(quick: Live, session: str, twin: Session) -> None:
    quick.post(f"{session}/objects", {"prompts": [BOX]})
    for x in (12, 40):
        quick.post(f"{session}/objects/1/prompts", {"prompts": [{"type": "point", "x": x, "y": 20, "frame": 1}]})
    (left,) = quick.http.delete(f"{session}/objects/1/prompts/1").json()["objects"]
    twin.segment(Box(20, 10, 50, 40), force=True)
    twin.correct(1, Point(40, 20, frame=1))
    assert left["rles"] == known(twin)[1] and len(left["prompts"]) == 2


def test_mask_goes_in_and_stays_as_it_is(quick: Live, session: str) -> None:
    mask = np.zeros((48, 64), bool)
    mask[10:20, 10:30] = True
    prompt = {"type": "mask", "rle": encode_rle(mask), "frame": 1, "object_id": 5}
    (one,) = quick.post(f"{session}/objects", {"prompts": [prompt]})["objects"]
    assert one["id"] == 5 and np.array_equal(decode_rle(one["rles"][1]), mask)
    renamed = quick.http.patch(f"{session}/objects/5", json={"label": "patch"}).json()
    assert renamed["label"] == "patch" and quick.get(f"{session}/objects/5")["rles"] == one["rles"]
    assert quick.http.delete(f"{session}/objects/5").status_code == 204
    assert quick.get(f"{session}/objects/5", 404)["error"]["code"] == "no_object"


def test_question_streams_words_masks_and_the_answer(quick: Live, session: str, twin: Session) -> None:
    expected = twin.ask("What is this?", prompts=[Box(20, 10, 50, 40)], force=True, max_new_tokens=6)
    body = {"text": "What is this?", "prompts": [BOX], "force": True, "max_tokens": 6}
    told = events(quick.http.post(f"{session}/ask", json={**body, "stream": True}).text)
    names = [name for name, _ in told]
    assert names[-2:] == ["answer", ""] and told[-1][1] == "[DONE]"
    assert "".join(value["text"] for name, value in told if name == "text") == expected.text
    assert [value["frame"] for name, value in told if name == "masks"][:3] == [0, 1, 2]
    answer = told[-2][1]
    assert answer["text"] == expected.text and answer["finish_reason"] == "length"
    assert rles(answer["objects"])[1] == known(twin)[1]
    assert answer["usage"]["completion_tokens"] == 6
    turns = quick.get(session)["turns"]
    assert [turn["question"] for turn in turns] == ["What is this?"] and turns[0]["objects"][0] == 1
    second = quick.post(f"{session}/ask", {"text": "And [1]?", "max_tokens": 4})
    assert second["text"] == twin.ask("And [1]?", max_new_tokens=4).text


def test_things_are_asked_for_one_by_one_if_wanted(quick: Live, session: str, twin: Session) -> None:
    text = "Please segment the dog and the ball."
    expected = {each: twin.ask(text, each=each, max_new_tokens=12) for each in (True, False)}
    assert expected[True].raw_text != expected[False].raw_text
    for each, answer in expected.items():
        given = quick.post(f"{session}/ask", {"text": text, "each": each, "max_tokens": 12})
        assert given["text"] == answer.text
        assert rles(given["objects"]) == {one.id: one.to_json()["rles"] for one in answer.objects}
    refused = quick.http.post(f"{session}/ask", json={"text": text, "each": True, "prompts": [BOX]})
    assert refused.status_code == 400 and "each is for things that a question names" in refused.text


def test_session_that_cooled_down_goes_on_as_if_nothing_was(quick: Live, session: str, twin: Session) -> None:
    for question in ("Where is it?", "Here is the ball."):
        quick.post(f"{session}/ask", {"text": question, "max_tokens": 3})
        twin.ask(question, max_new_tokens=3)
    entry = quick.sessions.entries()[-1]
    entry.release_caches()  # nothing else is going on
    told = quick.post(f"{session}/ask", {"text": "What else?", "max_tokens": 5})
    assert told["text"] == twin.ask("What else?", max_new_tokens=5).text


def test_exports_are_what_other_programs_read(quick: Live, session: str, tmp_path: Path) -> None:
    objects = quick.post(f"{session}/objects", {"prompts": [BOX]})["objects"]
    mask = decode_rle(objects[0]["rles"][0])

    def fetched(kind: str) -> Path:
        answer = quick.http.get(f"{session}/export", params={"format": kind, "objects": 1})
        assert answer.status_code == 200, answer.text
        path = tmp_path / answer.headers["content-disposition"].split('"')[1]
        path.write_bytes(answer.content)
        return path

    coco = COCO(str(fetched("coco")))
    assert np.array_equal(coco.annToMask(coco.loadAnns(coco.getAnnIds(imgIds=0))[0]).astype(bool), mask)
    with zipfile.ZipFile(fetched("davis")) as archive:
        assert archive.namelist() == ["00000.png", "00002.png", "00004.png"]
        archive.extractall(tmp_path / "davis")
    assert np.array_equal(load_index_png(tmp_path / "davis" / "00000.png") == 1, mask)
    with zipfile.ZipFile(fetched("yolo")) as archive:
        number, *corners = archive.read("labels/frame_000000.txt").decode().split()
        assert number == "0" and "object" in archive.read("data.yaml").decode()
    polygon = np.array(corners, float).reshape(-1, 2) * (64, 48)
    drawn, (_, iou) = draw_outline(polygon, (48, 64)), fit_outline(mask)
    assert (drawn & mask).sum() / (drawn | mask).sum() == pytest.approx(iou) and iou > 0.8  # a mask of many specks
    told = quick.http.get(f"{session}/export", params={"format": "yolo", "objects": 1}).headers["x-left-out"]
    below = sum(fit_outline(decode_rle(rle))[1] < 0.98 for rle in objects[0]["rles"] if rle is not None)
    assert (f"{below} outlines cover their mask with an IoU below 0.98" in told) == (below > 0)
    assert "3 pictures are not there" in told  # frames of a clip do not go into the zip
    for kind in ("cvat", "datumaro", "label-studio", "labelme", "numpy", "youtube-vis"):
        file = fetched(kind)
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                archive.extractall(tmp_path / kind)
            file = tmp_path / kind
        (read,) = read_annotations(file)
        assert np.array_equal(read.tracks[1].mask(0), mask) and read.frame_indices == (0, 2, 4), kind
    film = open_media(str(fetched("overlay")))
    assert (film.num_frames, film.size_hw) == (3, (48, 64))
    folder = Path(quick.sessions.entries()[-1].folder)
    wait_for(lambda: not list(folder.glob("export-*")))  # cleared away after the answer has been sent


def test_frames_are_shown_as_they_are_or_smaller(quick: Live, session: str, twin: Session) -> None:
    exact = quick.http.get(f"{session}/frames/2", params={"format": "png"})
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(exact.content))), twin.media.frame(2))
    small = quick.http.get(f"{session}/frames/0", params={"width": 32})
    assert Image.open(io.BytesIO(small.content)).size == (32, 24) and small.headers["content-type"] == "image/jpeg"
    assert quick.get(f"{session}/frames/3", 404)["error"]["message"] == "there is no frame 3; the clip has 0 to 2"


def test_stopped_tracking_keeps_what_it_has_and_keeps_nobody_waiting(quick: Live, session: str, media: Path) -> None:
    busy = quick.upload(media / "long.mp4", track="all", num_frames=2)
    seen: list[str] = []

    def follow() -> None:
        body = {"prompts": [BOX], "stream": True}
        with quick.http.stream("POST", f"{busy}/objects", json=body) as answer:
            seen.extend(line for line in answer.iter_lines() if line.startswith("event"))

    thread = threading.Thread(target=follow)
    thread.start()
    while not seen.count("event: masks") > 2:
        time.sleep(0.01)
    assert quick.get(busy)["is_busy"]
    assert quick.post(f"{session}/objects", {"prompts": [BOX]})["objects"]  # meanwhile
    assert quick.post(f"{busy}/stop", {}) == {"stopped": 1}
    thread.join()
    assert seen[-1] == "event: stopped" and 3 <= len(seen) < LONG
    reached = [sum(score > 0 for score in one["frame_scores"]) for one in quick.get(busy)["objects"]]
    assert 0 < max(reached) < LONG
    quick.http.delete(busy)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("ask", {}, "question is empty"),
        ("ask", {"text": "x" * 40_000}, "40000 characters long"),
        ("ask", {"text": "hm", "max_tokens": 10**9}, "max_tokens is 1000000000"),
        ("ask", {"text": 3}, "text: Input should be a valid string, not 3"),
        ("ask", {"text": "hm", "about": [7]}, "object 7 is not known"),
        ("ask", {"text": "hm", "start": 99}, "start is 99"),
        ("ask", {"text": "hm", "nonsense": 1}, "nonsense: Extra inputs are not permitted"),
        ("objects", {"prompts": []}, "prompts: List should have at least 1 item"),
        ("objects", {"prompts": [{**BOX, "frame": 3}]}, "the clip has frames 0 to 2"),
        ("objects", {"prompts": [{"type": "box", "box": [30, 10, 20, 40]}]}, "is empty"),
        ("objects", {"prompts": [{"type": "point", "x": True, "y": 1}]}, "should be a valid number"),
        ("objects", {"prompts": [{"type": "mask", "rle": {"size": [48, 64], "counts": "zz"}}]}, "RLE"),
        ("objects", {"prompts": [{"type": "scribble"}]}, "prompts.0"),
        ("track", {}, "knows no object"),
        ("track", {"objects": [3]}, "object 3 is not known"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_fit_is_refused_in_one_sentence(
    quick: Live, session: str, path: str, body: dict[str, Any], words: str, stream: bool
) -> None:
    error = quick.post(f"{session}/{path}", {**body, "stream": stream}, 400)["error"]
    assert words in error["message"] and "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"


def test_changes_are_undone_and_redone(quick: Live, media: Path) -> None:
    address = quick.upload(media / "picture.png")
    opened = quick.get(address)
    assert (opened["can_undo"], opened["can_redo"]) == (False, False)
    assert quick.post(f"{address}/undo", {}, 400)["error"]["message"] == "there is no change of the objects to undo"
    mask = {"size": [48, 64], "counts": encode_rle(np.ones((48, 64), bool))["counts"]}
    quick.post(f"{address}/objects", {"prompts": [{"type": "mask", "rle": mask}], "label": "wing"})
    states = [quick.get(address)]
    quick.http.patch(f"{address}/objects/1", json={"label": "left wing"})
    states.append(quick.get(address))
    quick.http.delete(f"{address}/objects/1")
    states.append(quick.get(address))
    for before in reversed([opened, *states[:2]]):
        told = quick.post(f"{address}/undo", {})
        assert told["objects"] == before["objects"] and told["can_redo"] and not told["is_busy"]
        assert told == quick.get(address)
    for after in states:
        assert quick.post(f"{address}/redo", {})["objects"] == after["objects"]
    assert quick.post(f"{address}/redo", {}, 400)["error"]["code"] == "bad_prompt"


def test_objects_are_put_back_with_their_masks(quick: Live, media: Path) -> None:
    address = quick.upload(media / "clip.mp4", num_frames=3)
    mask = np.zeros((48, 64), bool)
    mask[10:20, 5:30] = True
    rle = encode_rle(mask)
    given = {"label": "wing", "rles": [rle, None, rle], "frame_scores": [0.5, 0.0, 0.75]}
    answer = quick.http.put(f"{address}/objects/7", json=given)
    assert answer.status_code == 200
    told = quick.get(f"{address}/objects/7")
    assert told == answer.json() and {name: told[name] for name in given} == given and told["score"] == 0.625
    again = quick.http.put(f"{address}/objects/7", json={"label": "", "rles": [None, rle, None]})
    assert again.json()["frame_scores"] == [0, 1, 0] and quick.post(f"{address}/undo", {})["objects"] == [told]
    small = {"size": [4, 4], "counts": "0`0"}
    for body, words in [
        ({"label": "x"}, "rles is missing"),
        ({"label": "x", "rles": [rle]}, "the masks of object 7 are 1 frames"),
        ({"label": "x", "rles": [small] * 3}, "the mask's size is [4, 4]"),
        ({"label": "x", "rles": [{**rle, "counts": "zz"}] * 3}, "not COCO's text form"),
        ({"label": "x", "rles": [rle] * 3, "frame_scores": [1]}, "1 numbers for 3 frames"),
    ]:
        refused = quick.http.put(f"{address}/objects/7", json=body)
        assert refused.status_code == 400 and words in refused.json()["error"]["message"], refused.text
    assert quick.http.put(f"{address}/objects/0", json=given).status_code == 400
    assert quick.http.patch(f"{address}/objects/7", json=given).status_code == 400
    assert quick.get(f"{address}/objects")["objects"] == [told]


def test_set_of_pictures_is_exported_as_one(quick: Live, tmp_path: Path) -> None:
    ids, masks = [], []
    for number, name in enumerate(("a.jpg", "b.png", "a.jpg", "empty.png")):
        mask = np.zeros((40, 60), bool)
        mask[5 : 10 + number, 5 : 20 + number] = True
        Image.new("RGB", (60, 40), (number * 50, 90, 30)).save(tmp_path / f"{number}-{name}")
        content = (tmp_path / f"{number}-{name}").read_bytes()
        opened = quick.http.post("/v1/sessions/upload", files={"file": (name, content)}).json()
        if name != "empty.png":
            body = {"label": ("dog", "cat", "dog")[number], "rles": [encode_rle(mask)]}
            assert quick.http.put(f"/v1/sessions/{opened['id']}/objects/1", json=body).status_code == 200
            masks.append(mask)
        ids.append(opened["id"])
    coco = quick.get("/v1/export", format="coco", session=ids)
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    read = COCO(tmp_path / "coco.json")
    assert [image["file_name"] for image in coco["images"]] == ["a.jpg", "b.png", "a-2.jpg", "empty.png"]
    assert [one["name"] for one in coco["categories"]] == ["dog", "cat"]
    assert all((read.annToMask(one) == mask).all() for one, mask in zip(coco["annotations"], masks, strict=True))
    assert [one["category_id"] for one in coco["annotations"]] == [1, 2, 1]
    content = quick.http.get("/v1/export", params={"format": "yolo", "session": ids}).content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        pictures = sorted(Path(name).stem for name in names if name.startswith("images/"))
        assert pictures == sorted(Path(name).stem for name in names if name.startswith("labels/"))
        assert pictures == ["a", "a-2", "b", "empty"]
        # the pictures themselves, not made anew
        assert archive.read("images/a-2.jpg") == (tmp_path / "2-a.jpg").read_bytes()
    content = quick.http.get("/v1/export", params={"format": "davis", "session": ids[:2]}).content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pngs = [name for name in archive.namelist() if name.endswith(".png")]
        assert sum(int((load_index_png(io.BytesIO(archive.read(name))) == 1).sum()) for name in pngs) == int(
            masks[0].sum() + masks[1].sum()
        )
    lines = quick.http.get("/v1/export", params={"format": "jsonl", "session": ids}).text.splitlines()
    assert [json.loads(line)["file_name"] for line in lines] == ["a.jpg", "b.png", "a-2.jpg", "empty.png"]
    split: dict[str, Any] = {"session": ids, "class": ["bird", "cat"], "train": 50, "val": 25, "test": 25}
    content = quick.http.get("/v1/export", params={"format": "coco", **split}).content
    assert quick.http.get("/v1/export", params={"format": "coco", **split}).content == content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    assert {name: len(one["images"]) for name, one in parts.items()} == {
        "instances_train.json": 2, "instances_val.json": 1, "instances_test.json": 1
    }  # fmt: skip
    for one in parts.values():
        assert [(each["id"], each["name"]) for each in one["categories"]] == [(1, "bird"), (2, "cat"), (3, "dog")]
    content = quick.http.get("/v1/export", params={"format": "yolo", **split}).content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        assert sum(name.startswith("images/train/") for name in names) == 2
        assert "val: images/val" in archive.read("data.yaml").decode()
    left_out = quick.http.get("/v1/export", params={"format": "davis", **split}).headers["x-left-out"]
    assert "4 pictures and clips are in one whole" in left_out
    refused = quick.get("/v1/export", 400, format="coco", session=ids, train=80, val=30)
    assert "are 80, 30 and 0; they must make 100" in refused["error"]["message"]
    quick.get("/v1/export", 404, format="coco", session=[*ids, "s-nothing"])
    quick.get("/v1/export", 400, format="coco")


def test_folder_of_the_server_is_listed_shown_and_opened(quick_engine: Engine, media: Path, tmp_path: Path) -> None:
    folder, outside = tmp_path / "pictures", tmp_path / "secret.png"
    (folder / "more").mkdir(parents=True)
    shutil.copyfile(media / "picture.png", outside)
    for name in ("p10.png", "p9.png", "more/a b.png", "._p9.png", ".hidden.png"):
        shutil.copyfile(media / "picture.png", folder / name)
    shutil.copyfile(media / "clip.mp4", folder / "clip.mp4")
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.png").write_bytes(b"no picture either")
    (folder / "link.png").symlink_to(outside)
    (folder / "within.png").symlink_to(folder / "p9.png")
    (folder / "around").symlink_to(folder, target_is_directory=True)
    with running(quick_engine, folder=folder) as live:
        assert live.get("/health")["has_folder"] is True
        told = live.get("/v1/folder")
        assert told["files"] == ["broken.png", "clip.mp4", "more/a b.png", "p9.png", "p10.png", "within.png"]
        assert (told["name"], told["left_out"]) == ("pictures", 0) and str(tmp_path) not in str(told)
        for name, size in (("p9.png", (32, 24)), ("clip.mp4", (32, 24))):
            content = live.http.get("/v1/folder/thumbnail", params={"name": name, "width": 32}).content
            assert Image.open(io.BytesIO(content)).size == size
        refused = live.get("/v1/folder/thumbnail", 400, name="broken.png")
        assert "broken.png" in refused["error"]["message"] and str(tmp_path) not in str(refused)
        opened = live.post("/v1/sessions", {"url": "folder:more/a b.png"}, 201)
        assert (opened["name"], opened["media"]["width"]) == ("a b.png", 64)
        (folder / "more" / "a b.png").unlink()  # the session has its own
        assert live.http.get(f"/v1/sessions/{opened['id']}/frames/0").status_code == 200
        shutil.copyfile(media / "picture.png", folder / "new.png")
        live.post("/v1/sessions", {"url": "folder:new.png"}, 201)
        (folder / "new.png").unlink()
        (folder / "new.png").symlink_to(outside)  # it was listed, and is now somewhere else
        ways = (
            "../secret.png",
            "more/../../secret.png",
            str(outside),
            "link.png",
            "new.png",
            "notes.txt",
            "",
            ".",
            "%2e%2e",
        )
        for name in ways:
            for answer in (
                live.http.get("/v1/folder/thumbnail", params={"name": name}),
                live.http.post("/v1/sessions", json={"url": f"folder:{name}"}),
            ):
                assert answer.status_code == 400 and "there is no picture and no video" in answer.text, name
        chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "folder:p9.png"}}]}]
        live.post("/v1/chat/completions", {"model": "nano", "messages": chat}, 400)  # of pages and sessions alone
    with running(quick_engine, folder=folder, max_upload_bytes=100) as live:
        assert "bytes" in live.post("/v1/sessions", {"url": "folder:p9.png"}, 400)["error"]["message"]


def test_progress_in_the_folder_is_shared_by_all_clients_of_an_owner(
    quick_engine: Engine, media: Path, tmp_path: Path
) -> None:
    folder, state = tmp_path / "pictures", tmp_path / "state"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copyfile(media / "picture.png", folder / name)
    settings = {"folder": folder, "state": state}

    def change(live: Live, status: int = 200, **body: Any) -> Any:
        answer = live.http.patch("/v1/folder", json={"items": {}, **body})
        assert answer.status_code == status, answer.text
        return answer.json()

    with running(quick_engine, **settings) as live:
        fresh = {"revision": 0, "classes": [], "shares": [], "items": {}}
        assert live.get("/v1/folder")["progress"] == change(live) == fresh
        mine, other = (live.post("/v1/sessions", {"url": "folder:a.png"}, 201)["id"] for _ in range(2))
        item = {"session": mine, "state": "work"}
        told = change(live, items={"a.png": item}, classes=["dog", "cat"], shares=[80, 10, 10])
        assert told == {"revision": 1, "classes": ["dog", "cat"], "shares": [80, 10, 10], "items": {"a.png": item}}
        broken = {"session": "", "state": "broken"}
        assert change(live, items={"b.png": broken}, since=1)["items"] == {"b.png": broken}
        # a picture stays with the session in which it is worked on
        told = change(live, items={"a.png": {"session": other, "state": "done"}}, since=2)
        assert (told["revision"], told["items"]) == (3, {"a.png": item})
        live.http.delete(f"/v1/sessions/{mine}")
        done = {"session": other, "state": "done"}
        assert change(live, items={"a.png": done}, since=3)["items"] == {"a.png": done}
        newest = change(live, since=2, shares=[])
        assert newest["items"] == {"a.png": done} and newest["shares"] == [] and newest["revision"] == 5
        wrong = (
            ({"items": {"c.png": done}}, "there is no picture and no video 'c.png' in the server's folder"),
            ({"items": {"../state": done}}, "there is no picture and no video '../state'"),
            (
                {"items": {"a.png": {"session": "", "state": "odd"}}},
                "the state 'odd' is none of new, work, done, broken",
            ),
            ({"items": {"a.png": {"state": "done"}}}, "items.a.png"),
            ({"classes": ["dog", "dog"]}, "the class 'dog' is there twice"),
            ({"classes": [" "]}, "the class ' ' has 1 signs; it must have 1 to 80"),
            ({"classes": ["x" * 81]}, "has 81 signs"),
            ({"classes": [str(i) for i in range(1001)]}, "there are 1001 classes; at most 1000 are allowed"),
            ({"shares": [80, 10]}, "the shares are [80, 10]; they must be three that make 100, or none"),
            ({"shares": [120, -10, -10]}, "they must be three that make 100"),
            ({"since": -1}, "since"),
        )
        for body, message in wrong:
            assert message in change(live, 400, **body)["error"]["message"]
        assert change(live)["revision"] == 5  # nothing of these was taken over
        (folder / "a.png").unlink()
        change(live, items={"a.png": {"session": "", "state": "new"}})  # what is known may change when the file is gone
    with running(quick_engine, **settings) as live:
        told = live.get("/v1/folder")
        assert told["files"] == ["b.png"] and told["progress"] == {
            "revision": 6, "classes": ["dog", "cat"], "shares": [], "items": {
                "a.png": {"session": "", "state": "new"}, "b.png": broken,
            },
        }  # fmt: skip
    (file,) = state.glob("folder-*.json")
    good = file.read_text()
    for text in ("[]", "{", good.replace("broken", "odd"), good.replace('"revision": 6', '"revision": -1'), '{"": 3}'):
        file.write_text(text)
        assert FolderProgress(file).tell("") == fresh
        assert file.with_name(f"{file.name}.damaged").read_text() == text
    keys = {"api_keys": ("k" * 20, "q" * 20)}
    with running(quick_engine, folder=folder, **keys) as live:
        for key, classes in zip(keys["api_keys"], (["dog"], ["cat"]), strict=True):
            live.http.headers["X-API-Key"] = key
            assert live.get("/v1/folder")["progress"] == fresh
            assert change(live, classes=classes)["classes"] == classes


def test_server_without_a_folder_opens_none(quick: Live) -> None:
    for answer in (
        quick.get("/v1/folder", 404),
        quick.post("/v1/sessions", {"url": "folder:p9.png"}, 404),
        quick.http.patch("/v1/folder", json={"items": {}}).json(),
    ):
        assert answer["error"]["message"] == "this server opens no folder; start it with --folder DIR"


def test_saved_session_sleeps_where_another_needs_its_place(quick_engine: Engine, media: Path, tmp_path: Path) -> None:
    with running(quick_engine, state=tmp_path, max_sessions=2) as live:
        kept = [live.upload(media / "picture.png") for _ in range(2)]
        for address in kept:
            live.post(f"{address}/objects", {"prompts": [BOX]})
            live.post(f"{address}/keepalive", {})
        before = [live.get(address)["objects"] for address in kept]
        third = live.upload(media / "picture.png")
        assert live.get("/health")["sessions"] == 2 and len(live.get("/v1/sessions")["sessions"]) == 3
        # the two that are saved take turns; the third is not, and stays
        for _ in range(2):
            assert [live.get(address)["objects"] for address in kept] == before
        live.get(third)
        found = live.get("/v1/export", format="coco", session=[address.rpartition("/")[2] for address in kept])
        assert len(found["images"]) == 2
