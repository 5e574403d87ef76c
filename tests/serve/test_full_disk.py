"""A disk that is full (a real one, where we may mount it): told as 507, nothing half-written stays, all goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import data_url, running

from unipixel.engine.engine import Engine
from unipixel.serve.errors import describe_error

BOX = {"type": "box", "box": [20, 10, 50, 40]}
SIZE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only an administrator may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no room."""
    path = folder / "filling"
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return path


def refused(answer: Any) -> None:
    assert answer.status_code == 507, answer.text
    assert answer.json()["error"]["code"] == "no_space" and "disk is full" in answer.json()["error"]["message"]


def test_full_disk_is_told_and_harms_nothing(quick_engine: Engine, media: Path, small_disk: Path) -> None:
    with running(quick_engine, state=small_disk / "state") as live:
        address = live.upload(media / "clip.mp4", num_frames=3)
        live.post(f"{address}/objects", {"prompts": [BOX]})
        live.post(f"{address}/save", {})
        folder = small_disk / "state" / "sessions" / address.rsplit("/", 1)[1]
        saved = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        live.post(f"{address}/objects", {"prompts": [BOX]})
        before, listed = live.get(address), sorted(path.name for path in folder.iterdir())
        filling = fill(small_disk)
        for kind in ("coco", "davis", "overlay", "yolo"):
            refused(live.http.get(f"{address}/export", params={"format": kind}))
        refused(live.http.post(f"{address}/save"))
        with open(media / "clip.mp4", "rb") as file:
            refused(live.http.post("/v1/sessions/upload", files={"file": file}))
        refused(live.http.post("/v1/sessions", json={"url": data_url(media / "clip.mp4", "video/mp4")}))
        assert live.get(address) == before  # and all is as it was
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == saved
        assert sorted(path.name for path in folder.iterdir()) == listed
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]
        assert live.post(f"{address}/ask", {"text": "What is [1]?", "max_tokens": 2})["text"] is not None
        filling.unlink()
        assert live.get(f"{address}/export", format="coco")["annotations"]
        before = live.post(f"{address}/save", {})
        assert before["is_saved"]
    with running(quick_engine, state=small_disk / "state") as live:
        assert live.get(address)["objects"] == before["objects"]


def test_upload_that_fills_the_temporary_disk_is_told(
    quick_engine: Engine, media: Path, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with running(quick_engine, state=tmp_path / "state") as live:
        refused(live.http.post("/v1/sessions/upload", files={"file": ("a.png", os.urandom(3 * SIZE))}))
        assert live.upload(media / "picture.png") and len(list((tmp_path / "state" / "sessions").iterdir())) == 1
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 507),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 507),
        (OSError(errno.EMFILE, "Too many open files"), 503),
        (MemoryError(), 503),
        (ZeroDivisionError("secret"), 500),
        (PermissionError(errno.EACCES, "secret"), 500),
    ],
)
def test_what_is_missing_is_told_apart(error: BaseException, status: int) -> None:
    told = describe_error(error)
    assert told.status == status and "secret" not in told.message
