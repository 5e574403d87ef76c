"""Files and folders that are whole or not there: written, replaced, cut short by errors, by kills and by full disks."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unipixel import atomic
from unipixel.atomic import LineWriter, cut_torn_line, remove_folder, replace_file, replace_folder, write_text


class Broken(Exception):
    """Something that goes wrong while a draft is written."""


def list_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_file_is_as_it_was_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")
    path.chmod(0o640)
    with pytest.raises(Broken), replace_file(path) as draft:
        draft.write_text("ne")
        assert path.read_text() == "old"
        raise Broken
    assert list_files(tmp_path) == {"report.json": b"old"}
    write_text(path, "new")
    assert list_files(tmp_path) == {"report.json": b"new"} and path.stat().st_mode & 0o777 == 0o640


def test_link_stays_a_link_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text", sync=False)
    assert os.read(reader, 10) == b"text"
    os.close(reader)


@pytest.mark.parametrize("exchanges", [True, False])
def test_folder_takes_the_place_of_another(tmp_path: Path, exchanges: bool, monkeypatch: Any) -> None:
    if not exchanges:  # as on systems that cannot
        monkeypatch.setattr(atomic, "_exchange", lambda draft, path: False)
    place = tmp_path / "final"
    for text in ("old", "new"):
        with replace_folder(place) as draft:
            (draft / f"{text}.txt").write_text(text)
    assert list_files(tmp_path) == {"final/new.txt": b"new"}
    with pytest.raises(Broken), replace_folder(place) as draft:
        (draft / "more.txt").write_text("more")
        raise Broken
    assert list_files(tmp_path) == {"final/new.txt": b"new"}
    remove_folder(place)
    remove_folder(place)  # there is nothing any more
    assert list(tmp_path.iterdir()) == []


def test_torn_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert cut_torn_line(path) == 0
    for content, kept in ((b"", b""), (b"one", b""), (b"one\n", b"one\n"), (b"one\n" + b"x" * 200_000, b"one\n")):
        path.write_bytes(content)
        assert cut_torn_line(path) == len(content) - len(kept) and path.read_bytes() == kept


def test_line_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from unipixel.atomic import LineWriter;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "file = LineWriter(Path(sys.argv[1])); [file.append(b'x' * 299 + bytes([10])) for _ in range(5)]"
    )
    path = tmp_path / "lines"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert f"[Errno {errno.EFBIG}]" in done.stderr and path.read_bytes() == (b"x" * 299 + b"\n") * 3
    writer = LineWriter(path)  # and goes on behind the last whole line
    writer.append(b"more\n")
    writer.close()
    assert path.read_bytes().endswith(b"x\nmore\n")


def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "figures", "old")
    code = (
        "import resource, signal, sys; from unipixel.atomic import write_text;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "write_text(sys.argv[1], 'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "figures"], capture_output=True, text=True)
    assert f"[Errno {errno.EFBIG}]" in done.stderr and list_files(tmp_path) == {"figures": b"old"}
    assert resource.getrlimit(resource.RLIMIT_FSIZE) != (1000, 1000)


def test_kill_at_any_moment_leaves_a_whole_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from unipixel.atomic import replace_folder\n"
        "print('go', flush=True)\n"
        "for n in range(100000):\n"
        "    with replace_folder(Path(sys.argv[1])) as draft:\n"
        "        for name in 'ab':\n"
        "            (draft / name).write_text(str(n) * 1000)\n"
    )
    for round_ in range(4):
        child = subprocess.Popen([sys.executable, "-c", code, tmp_path / "state"], stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline() == b"go\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.15 + 0.013 * round_)
        child.send_signal(signal.SIGKILL)
        child.wait()
        one, other = ((tmp_path / "state" / name).read_text() for name in "ab")
        assert one == other and one
