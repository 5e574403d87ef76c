"""Sessions that outlive their server, or their idleness; and those that do not."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path

from live import Live, running

from unipixel.engine.engine import Engine

BOX = {"type": "box", "box": [20, 10, 50, 40]}


def filled(live: Live, media: Path) -> str:
    """A session with a corrected object and a question behind it."""
    address = live.upload(media / "clip.mp4", num_frames=2)
    live.post(f"{address}/objects", {"prompts": [BOX], "label": "wing"})
    live.post(f"{address}/ask", {"text": "What is [1]?", "max_tokens": 3})
    return address


def test_saved_sessions_come_back_after_a_restart(quick_engine: Engine, media: Path, tmp_path: Path) -> None:
    with running(quick_engine, state=tmp_path) as live:
        saved, lost = filled(live, media), live.upload(media / "picture.png")
        assert live.post(f"{saved}/save", {})["is_saved"]
        live.http.patch(f"{saved}/objects/1", json={"label": "left wing"})  # saved again when the server ends
        before = live.get(saved)
    assert before["objects"][0]["label"] == "left wing" and len(before["turns"]) == 1
    moved = tmp_path.parent / "elsewhere"
    tmp_path.rename(moved)
    with running(quick_engine, state=moved) as live:
        assert [(one["id"], one["is_open"]) for one in live.get("/v1/sessions")["sessions"]] == [(before["id"], False)]
        assert live.get(saved) == before
        live.get(lost, 404)
        more = live.post(f"{saved}/ask", {"text": "And now?", "max_tokens": 3})
        assert more["text"] and len(live.get(saved)["turns"]) == 2
        corrected = live.post(f"{saved}/objects/1/prompts", {"prompts": [{"type": "point", "x": 30, "y": 20}]})
        assert len(corrected["objects"][0]["prompts"]) == 2
        assert live.post(f"{saved}/save", {})["is_saved"]
        assert live.http.delete(saved).status_code == 204
        live.get(saved, 404)
    assert list((moved / "sessions").iterdir()) == []


def test_idle_sessions_are_closed_and_saved_ones_sleep(quick_engine: Engine, media: Path, tmp_path: Path) -> None:
    with running(quick_engine, state=tmp_path, idle_s=1.0) as live:
        saved, lost = filled(live, media), live.upload(media / "picture.png")
        live.post(f"{saved}/save", {})
        before = live.get(saved)
        end = time.monotonic() + 20
        while live.get("/health")["sessions"] and time.monotonic() < end:
            time.sleep(0.1)
        live.get(lost, 404)
        assert live.get(saved) == before
        assert {path.name for path in (tmp_path / "sessions").iterdir()} == {before["id"]}


def test_server_without_a_folder_keeps_nothing(quick_engine: Engine, media: Path) -> None:
    with running(quick_engine, max_sessions=1) as live:
        address = live.upload(media / "picture.png")
        assert live.post(f"{address}/save", {}, 409)["error"]["code"] == "no_state"
        with open(media / "picture.png", "rb") as file:
            refused = live.http.post("/v1/sessions/upload", files={"file": file})
        assert refused.status_code == 429 and refused.headers["retry-after"]
        folder = live.sessions.entries()[0].folder
        assert sorted(path.name for path in folder.iterdir()) == ["media"]
    assert not folder.parent.parent.exists()


def test_damaged_records_are_left_alone(quick_engine: Engine, media: Path, tmp_path: Path) -> None:
    with running(quick_engine, state=tmp_path) as live:
        address = live.upload(media / "picture.png")
        live.post(f"{address}/save", {})
    folder = next((tmp_path / "sessions").iterdir())
    (folder / "saved.session").write_bytes(b"PK\x03\x04 nonsense")
    with running(quick_engine, state=tmp_path) as live:
        error = live.get(address, 400)["error"]
        assert error["code"] == "bad_media" and str(tmp_path) not in error["message"]
    (folder / "about.json").write_text("{")
    with running(quick_engine, state=tmp_path) as live:
        live.get(address, 404)
        assert (folder / "media").exists()


def test_an_edited_session_is_refused_when_it_is_opened_and_can_be_deleted(
    quick_engine: Engine, media: Path, tmp_path: Path
) -> None:
    with running(quick_engine, state=tmp_path) as live:
        edited, whole, renamed = (filled(live, media) for _ in range(3))
        for address in (edited, whole, renamed):
            live.post(f"{address}/save", {})
        before = live.get(whole)
    (path,) = (tmp_path / "sessions" / edited.rpartition("/")[2]).rglob("saved.session")
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    record = json.loads(entries["session.json"])
    record["objects"][0]["frame_scores"] = [float("nan")] * 2
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {**entries, "session.json": json.dumps(record).encode()}.items():
            file.writestr(name, data)
    (path,) = (tmp_path / "sessions" / renamed.rpartition("/")[2]).rglob("about.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created": "yesterday"}))
    with running(quick_engine, state=tmp_path) as live:
        listed = {one["id"] for one in live.get("/v1/sessions")["sessions"]}
        assert listed == {address.rpartition("/")[2] for address in (edited, whole)}
        for _ in range(2):
            error = live.get(edited, 400)["error"]
            assert error["code"] == "bad_media" and "NaN" in error["message"]
        assert live.get(whole) == before
        assert live.http.delete(edited).status_code == 204
        live.get(edited, 404)
