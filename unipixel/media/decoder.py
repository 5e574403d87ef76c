"""Decoding in a process of its own: what a hostile file costs is bounded, and never costs the process that serves.

The process knows nothing but the files it is told to open. Memory and computing are bounded by the system, so that no
decoder has to be trusted; one that passes a bound, or breaks down, is replaced. Messages are lines of JSON, frames are
their plain pixels of a size that is known before: nothing that the process says is believed to be more than that.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from unipixel.errors import MediaError
from unipixel.media.limits import Limits

MAX_DECODERS = 4
"""Processes that decode at the same time; one of them is kept for what is open already."""
KEPT_SOURCES = 4
"""Files that a process keeps open."""
PIECE_BYTES = 32 << 20
"""Frames are handed over in pieces of about this size."""
STILLS_BYTES = 128 << 20
"""Decoded pictures that are kept, so that the next question about one does not decode it again."""
IDLE_S = 10.0
"""A process that has grown gives its memory back, by ending, when it has been idle for so long."""
GROWN_BYTES = 64 << 20
SKIPPED_FRAMES = 4
"""So many frames are passed over to reach one; for more of them reading begins anew there."""
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
"""Variables that the process gets; others may hold keys."""
_PATIENCE = 6
"""Wall time that a process may take, as a multiple of the computing it may do: the machine may be busy."""
_WATCH_S = 0.2
"""Pause between two looks at whether that has passed."""
_MEMORY, _TIME = "max_decoder_bytes", "max_decoder_s"


class IsolatedSource:
    """A file that another process decodes.

    Raises:
        MediaError: as the source for the file itself would, or if decoding it passes the bounds of ``limits``.
    """

    def __init__(self, data: Path | bytes, name: str, limits: Limits) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if isinstance(data, bytes):
            self._folder = tempfile.TemporaryDirectory(prefix="unipixel-media-")
            path = Path(self._folder.name) / "media"
            path.write_bytes(data)
        else:
            path = data
        own = replace(limits, isolated=False, authorization="", trusted_origin="")
        self._file = {"path": str(path.absolute()), "name": name, "limits": asdict(own)}
        self._key = json.dumps(self._file)
        self._name, self._limits = name, limits
        with _POOL.opening():
            opened, _ = self._ask({"op": "open"}, 0)
        self.num_frames = int(opened["num_frames"])
        height, width = opened["size_hw"]
        self.size_hw = (int(height), int(width))
        limits.check_size(self.size_hw, name)
        self.fps: float | None = opened["fps"]
        self.timestamps_s: Sequence[float] | None = opened["timestamps_s"]
        for text in opened["warnings"]:
            warnings.warn(str(text), stacklevel=2)
        if self.num_frames == 1:
            self.frame(0)  # a picture that cannot be decoded is refused where it is opened

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield frames of ascending ``indices``, uint8 (H, W, 3)."""
        size = max(1, PIECE_BYTES // (self.size_hw[0] * self.size_hw[1] * 3))
        for start in range(0, len(indices), size):
            piece = [int(index) for index in indices[start : start + size]]
            if self.num_frames == 1:
                yield from (self.frame(0) for _ in piece)
                continue
            yield from self._ask({"op": "read", "indices": piece}, len(piece))[1]

    def frame(self, index: int) -> np.ndarray:
        """One frame; asking for the next ones in turn is as fast as ``read``."""
        if self.num_frames > 1:
            return self._ask({"op": "read", "indices": [index]}, 1)[1][0]
        kept = _STILLS.get(self)
        if kept is None:
            kept = self._ask({"op": "read", "indices": [index]}, 1)[1][0]
            _STILLS.add(self, kept)
        return kept.copy()

    def close(self) -> None:
        """Forget what is kept in memory; the file may still be read."""
        _STILLS.discard(self)

    def _ask(self, message: dict[str, Any], num_frames: int) -> tuple[dict[str, Any], list[np.ndarray]]:
        while True:
            with _POOL.process(self._key) as process, contextlib.suppress(_Retired):
                return process.ask(message | self._file, num_frames, self)

    def build_error(self, reason: str) -> MediaError:
        """What is said of a process that did not answer: that it passed a bound, or how it ended."""
        limits = self._limits
        if reason == _MEMORY:
            sentence = f"{self._name} takes more than {limits.max_decoder_bytes} bytes of memory to decode"
            return limits.build_error(sentence, _MEMORY)
        if reason == _TIME:
            sentence = f"{self._name} takes more than {limits.max_decoder_s:g} s to decode"
            return limits.build_error(sentence, _TIME)
        return MediaError(f"{self._name} is damaged: {reason} while it was decoded")

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape of a frame (H, W, 3)."""
        return (*self.size_hw, 3)

    @property
    def patience_s(self) -> float:
        """Wall time that one piece may take."""
        return self._limits.max_decoder_s * _PATIENCE


class _Process:
    """One decoder, for one question at a time."""

    def __init__(self) -> None:
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
        path = os.pathsep.join(dict.fromkeys([str(Path(__file__).parents[2]), *filter(None, sys.path)]))
        self._popen = subprocess.Popen(
            [sys.executable, "-c", "from unipixel.media.decoder import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ}
            | single
            | {"PYTHONPATH": path, "PYTHONUTF8": "1"},
        )
        self.last_key = ""
        self._was_killed = False
        self._deadline = math.inf
        threading.Thread(target=self._watch, name="unipixel-decoder-watch", daemon=True).start()

    def _watch(self) -> None:
        """Kill the process when it takes longer for an answer than it may; one thread for all questions."""
        while self._popen.poll() is None:
            if time.monotonic() > self._deadline:
                self._kill()
            time.sleep(_WATCH_S)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked; one that was killed may take a moment to end."""
        return not self._was_killed and self._popen.poll() is None

    def ask(
        self, message: dict[str, Any], num_frames: int, source: IsolatedSource
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Send a message; returns the answer and the frames that follow it.

        Raises:
            MediaError: the process says so, or did not survive it.
        """
        self._deadline = time.monotonic() + source.patience_s * max(num_frames, 1)
        try:
            stdin, stdout = self._pipes()
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
            answer = json.loads(self._read_line(stdout))
            if "error" in answer:
                raise MediaError(str(answer["error"]))
            if "passed" in answer:
                self._kill()
                raise source.build_error(str(answer["passed"]))
            frames = [self._read_frame(stdout, source.frame_shape) for _ in range(num_frames)] if num_frames else []
            return answer, frames
        except (_Ended, BrokenPipeError):
            if self._popen.wait() == 0:
                raise _Retired from None
            raise source.build_error(self._describe_end()) from None
        except ValueError:  # no JSON
            self._kill()
            raise source.build_error("the decoder gave no answer") from None
        except BaseException as error:
            if not isinstance(error, MediaError):
                self._kill()  # it stands in the middle of an answer
            raise
        finally:
            self._deadline = math.inf

    def close(self) -> None:
        """End it."""
        self._kill()
        self._popen.wait()
        for pipe in self._pipes():
            with contextlib.suppress(OSError):
                pipe.close()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._popen.stdin is not None and self._popen.stdout is not None
        return self._popen.stdin, self._popen.stdout

    def _kill(self) -> None:
        self._was_killed = True
        self._popen.kill()

    def _read_line(self, stdout: IO[bytes]) -> bytes:
        line = stdout.readline()
        if not line.endswith(b"\n"):
            raise _Ended
        return line

    def _read_frame(self, stdout: IO[bytes], shape: tuple[int, int, int]) -> np.ndarray:
        pixels = bytearray(shape[0] * shape[1] * shape[2])
        view, place = memoryview(pixels), 0
        while place < len(pixels):
            count = stdout.readinto(view[place:])  # type: ignore[attr-defined]
            if not count:
                raise _Ended
            place += count
        return np.frombuffer(pixels, dtype=np.uint8).reshape(shape)

    def _describe_end(self) -> str:
        code = self._popen.wait()
        if self._was_killed or code == -getattr(signal, "SIGXCPU", 0):
            return _TIME
        if code == -signal.SIGKILL:  # by the system, which is short of memory
            return _MEMORY
        return f"the decoder ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}"


class _Ended(Exception):
    """The process ended in the middle of an answer."""


class _Retired(Exception):
    """The process had ended by itself, being idle, before it saw the message."""


class _Pool:
    """Processes that are handed out for one question at a time, preferably to the file that they last read."""

    def __init__(self) -> None:
        # entered itself: a condition is entered by Python code, in which a thread can be hit while it has the lock
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._idle: list[_Process] = []
        self._busy = 0
        self._opening = threading.BoundedSemaphore(MAX_DECODERS - 1)
        self._owner = os.getpid()

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Leave a process for those whose files are open."""
        with self._opening:
            yield

    @contextlib.contextmanager
    def process(self, key: str) -> Iterator[_Process]:
        """A process that is alive, started if need be."""
        with self._lock:
            if self._owner != os.getpid():  # after a fork, pipes belong to the parent
                self._idle, self._busy, self._owner = [], 0, os.getpid()
            while self._busy >= MAX_DECODERS:
                self._condition.wait()
            for one in [one for one in self._idle if not one.is_alive]:
                self._idle.remove(one)
                one.close()
            fits = [one for one in self._idle if one.last_key == key] or self._idle
            found = fits[-1] if fits else None
            if found is not None:
                self._idle.remove(found)
            self._busy += 1
        try:
            if found is None:
                found = _Process()
            found.last_key = key
            yield found
        finally:
            with self._lock:
                self._busy -= 1
                if found is not None:
                    if found.is_alive:
                        self._idle.append(found)
                    else:
                        found.close()
                self._condition.notify()


class _Stills:
    """Decoded pictures, of which the oldest make room."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._lock = max_bytes, threading.Lock()
        self._kept: OrderedDict[IsolatedSource, np.ndarray] = OrderedDict()

    def get(self, source: IsolatedSource) -> np.ndarray | None:
        with self._lock:
            if source in self._kept:
                self._kept.move_to_end(source)
            return self._kept.get(source)

    def add(self, source: IsolatedSource, frame: np.ndarray) -> None:
        with self._lock:
            self._kept[source] = frame
            while sum(kept.nbytes for kept in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)

    def discard(self, source: IsolatedSource) -> None:
        with self._lock:
            self._kept.pop(source, None)


_POOL, _STILLS = _Pool(), _Stills(STILLS_BYTES)


# in the process that decodes


class _FrameReader:
    """An open file, of which frames are read in turn without beginning again."""

    def __init__(self, path: str, name: str, limits: Limits) -> None:
        from unipixel.media.clip import open_file

        self.source = open_file(Path(path), name, limits)
        self._frames: Iterator[np.ndarray] = iter(())
        self._next = -1

    def frame(self, index: int) -> np.ndarray:
        frame = getattr(self.source, "frame", None)
        if frame is not None:
            return np.asarray(frame(index))
        if not 0 <= self._next <= index <= self._next + SKIPPED_FRAMES:
            self._frames, self._next = self.source.read(range(index, self.source.num_frames)), index
        for found in self._frames:
            self._next += 1
            if self._next > index:
                return found
        raise MediaError(f"frame {index} is missing")

    def close(self) -> None:
        close = getattr(self.source, "close", None)
        if close is not None:
            close()


def serve() -> None:
    """Answer messages on the standard input until it ends; see the module's text."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print is not an answer
    readers: OrderedDict[str, _FrameReader] = OrderedDict()
    start = _measure_memory()
    while True:
        # the pipe is read unbuffered, so that waiting on it sees every message
        line = b""
        while not line.endswith(b"\n"):
            if not line and not _wait(IDLE_S):
                if _measure_memory()[1] > start[1] + GROWN_BYTES:
                    return
                continue
            part = os.read(0, 1 << 16)
            if not part:
                return
            line += part
        _answer(json.loads(line), readers, output, start[0])


def _answer(
    message: dict[str, Any], readers: OrderedDict[str, _FrameReader], output: IO[bytes], start_bytes: int
) -> None:
    limits = Limits(**message["limits"])
    answer: dict[str, Any]
    frames: list[np.ndarray] = []
    key = json.dumps([message["path"], message["limits"]])
    try:
        _bound(limits, start_bytes)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            known = readers.pop(key, None)
            if known is not None and message["op"] == "open":  # the file may be another one by now
                known.close()
                known = None
            reader = known or _FrameReader(message["path"], message["name"], limits)
        readers[key] = reader
        while len(readers) > KEPT_SOURCES:
            readers.popitem(last=False)[1].close()
        source = reader.source
        if message["op"] == "open":
            answer = {
                "num_frames": source.num_frames,
                "size_hw": list(source.size_hw),
                "fps": source.fps,
                "timestamps_s": None if source.timestamps_s is None else [float(t) for t in source.timestamps_s],
                "warnings": [str(one.message) for one in caught],
            }
        else:
            answer = {}
            for index in message["indices"]:
                _bound(limits, start_bytes)
                frame = np.ascontiguousarray(reader.frame(index), dtype=np.uint8)
                if frame.shape != (*source.size_hw, 3):  # whoever reads it counts on its size
                    raise MediaError(f"{message['name']} is damaged: frame {index} has another size than the first")
                frames.append(frame)
    except Exception as error:
        readers.pop(key, None)
        passed = _is_short_of_memory(error)
        said = error if isinstance(error, MediaError) else f"{message['name']} is damaged ({type(error).__name__})"
        answer, frames = {"passed": _MEMORY} if passed else {"error": str(said)}, []
    output.write(json.dumps(answer).encode() + b"\n")
    for frame in frames:
        output.write(frame.data)
    output.flush()


def _is_short_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        error = error.__cause__ or error.__context__
    return False


def _wait(seconds: float) -> bool:
    """Whether there is something to read within so many seconds."""
    if sys.platform == "win32":  # pipes cannot be waited for there
        return True
    return bool(select.select([0], [], [], seconds)[0])


def _bound(limits: Limits, start_bytes: int) -> None:
    """Have the system end this process, or refuse it memory, beyond what one step may cost."""
    if sys.platform == "win32":
        return
    import resource

    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    for kind, soft in (
        (resource.RLIMIT_AS, start_bytes + limits.max_decoder_bytes if start_bytes else resource.RLIM_INFINITY),
        (resource.RLIMIT_CPU, int(used + limits.max_decoder_s) + 1),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        with contextlib.suppress(ValueError, OSError):  # not every system knows each of them
            resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _measure_memory() -> tuple[int, int]:
    """Bytes of addresses and of memory that this process has; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError):
        addresses, resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
        page = os.sysconf("SC_PAGE_SIZE")
        return int(addresses) * page, int(resident) * page
    return 0, 0
