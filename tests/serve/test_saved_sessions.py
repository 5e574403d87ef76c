"""Sessions that outlive their server, or their idleness; and those that do not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from live import Live, running, wait_for

from unipixel.engine.engine import Engine
from unipixel.serve import ServeSettings
from unipixel.serve.server import Server

BOX = {"type": "box", "box": [20, 10, 50, 40]}


def restored(told: Any) -> Any:
    """A session as it is told once it comes from disk: without the changes that could be undone."""
    return {**told, "can_undo": False}


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
        assert live.get(saved) == restored(before)
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
    with running(quick_engine, state=tmp_path) as live:
        saved = filled(live, media)
        live.post(f"{saved}/save", {})
        before = live.get(saved)
    with running(quick_engine, state=tmp_path, idle_s=1.0) as live:
        assert live.get(saved) == restored(before)
        lost = live.upload(media / "picture.png")
        end = time.monotonic() + 20
        while live.get("/health")["sessions"] and time.monotonic() < end:
            time.sleep(0.1)
        live.get(lost, 404)
        assert live.get(saved) == restored(before)
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
    (saved,) = folder.glob("saved-*")
    (saved / "saved.session").write_bytes(b"PK\x03\x04 nonsense")
    with running(quick_engine, state=tmp_path) as live:
        error = live.get(address, 400)["error"]
        assert error["code"] == "bad_media" and str(tmp_path) not in error["message"]
    (saved / "about.json").write_text("{")
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
        assert live.get(whole) == restored(before)
        assert live.http.delete(edited).status_code == 204
        live.get(edited, 404)


def take_apart(folder: Path) -> tuple[Path, Path]:
    """The media of a session, and the folder of its one saved state."""
    (saved,) = folder.glob("saved-*")
    assert sorted(path.name for path in folder.iterdir()) == ["media", saved.name]
    assert sorted(path.name for path in saved.iterdir()) == ["about.json", "saved.session"]
    return folder / "media", saved


def test_newest_whole_state_wins_and_the_others_are_cleared(quick_engine: Engine, media: Path, tmp_path: Path) -> None:
    with running(quick_engine, state=tmp_path) as live:
        address = filled(live, media)
        before = live.post(f"{address}/save", {})
        folder = tmp_path / "sessions" / before["id"]
        _, saved = take_apart(folder)
        shutil.copytree(saved, tmp_path / "first")
        live.http.patch(f"{address}/objects/1", json={"label": "later"})
        later = live.post(f"{address}/save", {})
        _, newer = take_apart(folder)
        assert newer.name > saved.name
    shutil.rmtree(take_apart(folder)[1])  # what the end of the server has saved
    shutil.copytree(tmp_path / "first", folder / "saved-000002")
    shutil.copytree(tmp_path / "first", folder / "saved-000001")
    for number, (name, content) in enumerate(
        [
            ("saved.session", b"PK torn"),
            ("about.json", b'{"id": '),
            ("about.json", b'{"id": "s-other"}'),
            ("about.json", b"[" * 100_000),
        ],
        start=3,
    ):
        shutil.copytree(tmp_path / "first", folder / f"saved-{number:06d}")
        (folder / f"saved-{number:06d}" / name).write_bytes(content)
    (folder / "saved-000007").mkdir()
    (folder / ".saved-000008.part").mkdir()
    (folder.parent / ".s-AAAAAAAAAAAAAAAAAAAAAA.part").mkdir()  # a session that was being removed
    with running(quick_engine, state=tmp_path) as live:
        assert take_apart(folder)[1].name == "saved-000002"
        assert [path.name for path in folder.parent.iterdir()] == [before["id"]]
        assert live.get(address) == restored(before) != later
        live.post(f"{address}/save", {})
        assert take_apart(folder)[1].name == "saved-000003"


def test_older_layout_is_read_and_replaced(quick_engine: Engine, media: Path, tmp_path: Path) -> None:
    with running(quick_engine, state=tmp_path) as live:
        address = filled(live, media)
        before = live.post(f"{address}/save", {})
    folder = tmp_path / "sessions" / before["id"]
    _, saved = take_apart(folder)
    for path in saved.iterdir():
        path.rename(folder / path.name)
    saved.rmdir()
    with running(quick_engine, state=tmp_path) as live:
        assert live.get(address) == restored(before)
        live.post(f"{address}/save", {})
        take_apart(folder)


def test_second_server_on_a_folder_is_refused(quick_engine: Engine, tmp_path: Path) -> None:
    with running(quick_engine, state=tmp_path):
        with pytest.raises(ValueError, match="another server is using the state folder"):
            Server(quick_engine, ServeSettings(port=0, state=tmp_path))
        command = [sys.executable, "-m", "unipixel", "serve", "--port", "0", "--model", "no-such-model"]
        done = subprocess.run([*command, "--state", tmp_path], capture_output=True, text=True)
        # said before the model is even looked for
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "another server" in done.stderr
    with running(quick_engine, state=tmp_path):
        pass


def test_save_that_fails_keeps_what_was_saved(
    quick_engine: Engine, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(quick_engine, state=tmp_path) as live:
        address = filled(live, media)
        before = live.post(f"{address}/save", {})
        folder = tmp_path / "sessions" / before["id"]
        _, saved = take_apart(folder)
        content = {path.name: path.read_bytes() for path in saved.iterdir()}
        live.http.patch(f"{address}/objects/1", json={"label": "later"})
        for number, code in ((errno.EIO, "not_saved"), (errno.EROFS, "not_saved"), (errno.ENOSPC, "no_space")):

            def fail(*_: Any, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            monkeypatch.setattr(os, "fsync", fail)
            error = live.post(f"{address}/save", {}, 507)["error"]
            monkeypatch.undo()
            assert error["code"] == code and str(tmp_path) not in error["message"]
            assert take_apart(folder)[1] == saved
            assert {path.name: path.read_bytes() for path in saved.iterdir()} == content
        assert live.get(f"{address}/objects/1")["label"] == "later"
        monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.undo()  # the last save, at the end of the server, failed as well
    with running(quick_engine, state=tmp_path) as live:
        assert live.get(address) == restored(before)


def test_question_that_is_saved_has_its_turn(quick_engine: Engine, media: Path, tmp_path: Path) -> None:
    """Also where the answer and the save come from two clients, and the save runs at once behind the question."""
    with running(quick_engine, state=tmp_path) as live:
        address = live.upload(media / "clip.mp4", num_frames=2)
        replies: list[Any] = []
        ask = {"text": "What is this?", "max_tokens": 3}
        threads = [
            threading.Thread(
                target=lambda path=path, body=body: replies.append((path, live.post(address + path, body)))
            )
            for _ in range(6)
            for path, body in (("/ask", ask), ("/save", {}))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(replies) == 12
        last = live.post(f"{address}/save", {})
        _, saved = take_apart(tmp_path / "sessions" / last["id"])
        record = json.loads((saved / "about.json").read_text())
        assert len(record["turns"]) == len(last["turns"]) == 6 and record["turns"] == last["turns"]


def test_session_that_is_kept_alive_is_saved_after_every_change(
    quick_engine: Engine, media: Path, tmp_path: Path
) -> None:
    """Also what was done before, and what is done while the model works; others are saved when they are told to be."""
    with running(quick_engine, state=tmp_path / "state") as live:
        kept, other = filled(live, media), filled(live, media)
        assert live.post(f"{kept}/keepalive", {}) == {"is_saved": True, "problem": ""}
        live.post(f"{kept}/ask", {"text": "And now?", "max_tokens": 3})
        live.http.patch(f"{kept}/objects/1", json={"label": "later"})
        before = live.get(kept)
        assert before["is_saved"] and not live.get(other)["is_saved"]
        shutil.copytree(tmp_path / "state", tmp_path / "killed")
    with running(quick_engine, state=tmp_path / "killed") as live:
        assert live.get(kept) == restored(before)
        live.get(other, 404)
    with running(quick_engine) as live:
        assert live.post(f"{live.upload(media / 'picture.png')}/keepalive", {}) == {"is_saved": False, "problem": ""}


def test_sessions_stay_kept_over_sleep_and_restart(quick_engine: Engine, media: Path, tmp_path: Path) -> None:
    """A change right after waking up, before the tab gives a sign of life again, is saved like all others."""
    with running(quick_engine, state=tmp_path / "state") as live:
        kept = filled(live, media)
        live.post(f"{kept}/keepalive", {})
    with running(quick_engine, state=tmp_path / "state", idle_s=1.5) as live:
        live.post(f"{kept}/objects", {"prompts": [BOX]})
        wait_for(lambda: not live.get("/v1/sessions")["sessions"][0]["is_open"])
        live.http.patch(f"{kept}/objects/1", json={"label": "after sleep"})
        before = live.get(kept)
        shutil.copytree(tmp_path / "state", tmp_path / "killed")
    with running(quick_engine, state=tmp_path / "killed") as live:
        assert live.get(kept) == restored(before) and before["objects"][0]["label"] == "after sleep"
        live.http.patch(f"{kept}/objects/1", json={"label": "after restart"})
        shutil.copytree(tmp_path / "killed", tmp_path / "again")
    with running(quick_engine, state=tmp_path / "again") as live:
        assert live.get(kept)["objects"][0]["label"] == "after restart"
