"""Kill processes at random moments and fill their disk, and check that nothing acknowledged is lost or torn.

    python tools/chaos.py serve --rounds 100 --seed 0
    python tools/chaos.py tabs --rounds 30
    python tools/chaos.py train --rounds 100
    python tools/chaos.py eval --rounds 100

Each round forks a process that has everything imported, so that it starts at once, and sends it SIGKILL. Every tenth
round fills the disk instead: a small file system in memory where we may mount one (``--disk tmpfs``), else a bound on
the size of files (``--disk rlimit``). Ends with 1 if anything was lost, torn, or other than in a run left alone.

serve: clients open, segment, ask, rename, save and delete; after a restart every session has to be as it was when a
save of it was acknowledged, or when one was under way. tabs: clients work as the page does and never save by hand;
tabs are closed, and sleep for longer than a session may be idle; every change that was acknowledged has to be there.
train: the recipe ``debug`` goes on until it is done; its weights have to be those of a run left alone, and no
checkpoint may vanish or be cut off. eval: a few questions of the built-in world; lines that were there have to stay,
and the figures have to be the same.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import importlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from PIL import Image

from unipixel.bench.scene import draw_moving_discs
from unipixel.engine.engine import Engine
from unipixel.eval.predictions import PredictionLine, read_lines
from unipixel.serve import ServeSettings, run
from unipixel.train.checkpoints import list_checkpoints, save_whole
from unipixel.train.recipes import RECIPES
from unipixel.train.setup import prepare_training

DISK_BYTES = 48 << 20
CLIENTS = 4
OPERATIONS = {"open": 1.0, "segment": 2.0, "ask": 2.0, "rename": 2.0, "save": 4.0, "delete": 0.5}
PATIENCE_S = 60.0
"""Seconds after which a server is killed even if little was saved."""
MAX_SESSIONS = 6
"""Sessions of one client; above it, it deletes more often."""
TRAIN = ["train", "debug", "--workers", "0", "--report", "none"]
for setting in ("steps=8", "save_steps=1", "keep=3", "evaluation.samples=0", "log_steps=1"):
    TRAIN += ["--set", setting]
EVAL = ["eval", "stickers/refer", "stickers/name", "--limit", "6"]
PRELOADED = (
    "cli.evaluate",
    "cli.train",
    "eval.benchmarks",
    "eval.pages",
    "eval.predictors",
    "eval.report",
    "train.run",
)
"""Modules that commands import when they need them; a fork has them already."""


class Child:
    """A forked process that does something, and says one line through a pipe."""

    def __init__(self, work: Callable[[int], None], log: Path, max_file_bytes: int | None = None) -> None:
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                os.close(self._reader)
                errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(errors, 1)
                os.dup2(errors, 2)
                if max_file_bytes is not None:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
                work(writer)
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(writer)

    def read_line(self) -> str:
        """What it says; empty if it ends before."""
        with os.fdopen(self._reader) as file:
            return file.readline().strip()

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit status, or None if it runs for longer."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if end is not None and time.monotonic() >= end:
                return None
            time.sleep(0.005)


class Disk:
    """A folder whose disk can be filled."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self._filling = folder, folder / "filling"
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
        self.is_mounted = kind == "tmpfs" and subprocess.run(command, capture_output=True).returncode == 0

    @property
    def kind(self) -> str:
        return "tmpfs" if self.is_mounted else "rlimit"

    def fill(self, spare: int) -> int | None:
        """Leave so many bytes; returns the bound on files for a new process where the disk itself cannot be filled."""
        if not self.is_mounted:
            return spare
        free = shutil.disk_usage(self.folder).free
        with suppress(OSError):  # others write as well, so it may be full before
            self._filling.write_bytes(b"x" * max(0, free - spare))
        return None

    def empty(self) -> None:
        """Give the space back."""
        self._filling.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove everything."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def build_engine() -> Engine:
    """The smallest model with every part, its weights random."""
    torch.manual_seed(0)
    setup = prepare_training(RECIPES["debug"]())
    return Engine(setup.model.eval(), setup.processor)


# serve


@dataclass
class Known:
    """What clients know of a session."""

    allowed: list[Any]
    """States in which it may come back: the one last acknowledged, and those that may have been saved since."""
    is_saved: bool = False
    """Whether a save was acknowledged."""
    may_be_gone: bool = False
    """Whether a removal was begun, or no save was acknowledged."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def call(url: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and content of an answer."""
    line = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        content = None if body is None else json.dumps(body).encode()
        line.request(method, path, content, {"Content-Type": "application/json"})
        reply = line.getresponse()
        raw = reply.read()
        return reply.status, json.loads(raw) if raw else None
    finally:
        line.close()


def strip_state(session: Any) -> Any:
    """What a saved session has to keep."""
    return {name: value for name, value in session.items() if name not in ("is_busy", "is_saved", "can_undo")}


class ServerChaos:
    """Clients of a server that is killed again and again."""

    def __init__(self, folder: Path, seed: int, kind: str) -> None:
        self._engine, self._rng = build_engine(), random.Random(seed)
        self.disk = Disk(folder / "disk", kind)
        self._state, self._log = self.disk.folder / "state", folder / "server.log"
        self._known: dict[str, Known] = {}
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        packed = io.BytesIO()
        Image.fromarray(draw_moving_discs(1, (48, 64))[0]).save(packed, "PNG")
        self._picture = f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()}"

    def start(self, idle_s: float, max_file_bytes: int | None = None) -> tuple[Child, str]:
        """A server over the state folder."""

        def serve(writer: int) -> None:
            settings = ServeSettings(port=0, state=self._state, idle_s=idle_s)

            def announce(address: str) -> None:
                os.write(writer, f"{address}\n".encode())

            run(self._engine, settings, announce)

        child = Child(serve, self._log, max_file_bytes)
        return child, child.read_line()

    def check(self, url: str) -> None:
        """Compare every session with what is known of it."""
        _, content = call(url, "GET", "/v1/sessions")
        listed = {one["id"] for one in content["sessions"]}
        for session_id, known in list(self._known.items()):
            status, found = call(url, "GET", f"/v1/sessions/{session_id}")
            if status == 404:
                if not known.may_be_gone:
                    self.faults.append(f"{session_id} was saved and is lost")
                del self._known[session_id]
            elif status != 200:
                self.faults.append(f"{session_id} cannot be opened: {status} {found}")
                del self._known[session_id]
            else:
                if strip_state(found) not in known.allowed:
                    self.faults.append(f"{session_id} is none of {len(known.allowed)} states in which it was saved")
                self.counts["sessions compared"] += 1
                self._known[session_id] = Known([strip_state(found)], is_saved=True)
        if stray := listed - set(self._known):
            self.faults.append(f"sessions are there that nobody saved: {stray}")
        left = {path.name for path in (self._state / "sessions").iterdir()}
        if left != set(self._known):
            self.faults.append(f"beside the sessions there are {left - set(self._known)}")

    def work(self, url: str, seed: int, is_over: threading.Event) -> None:
        """Do things at random until the server is gone."""
        rng, own = random.Random(seed), [i for n, i in enumerate(sorted(self._known)) if n % CLIENTS == seed % CLIENTS]
        try:
            while not is_over.is_set():
                name = rng.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
                if name == "open" and len(own) >= MAX_SESSIONS:
                    name = "delete"
                if name == "open" or not own:
                    status, found = call(url, "POST", "/v1/sessions", {"url": self._picture})
                    if status == 201:
                        own.append(found["id"])
                        self._known[found["id"]] = Known([], may_be_gone=True)
                    continue
                session_id = rng.choice(own)
                if not self.operate(url, session_id, name, rng):
                    own.remove(session_id)
        except (OSError, http.client.HTTPException, ValueError):
            if not is_over.wait(5):
                self.faults.append("a connection broke off before the server was killed")

    def operate(self, url: str, session_id: str, name: str, rng: random.Random) -> bool:
        """One thing with a session; whether the session is still there."""
        known, path = self._known[session_id], f"/v1/sessions/{session_id}"
        with known.lock:
            if name == "delete":
                known.may_be_gone = True
                status, _ = call(url, "DELETE", path)
                if status == 204:
                    known.allowed.clear()
            elif name == "save":
                status, before = call(url, "GET", path)
                if status == 200:
                    known.allowed.append(strip_state(before))
                    status, saved = call(url, "POST", f"{path}/save")
                if status == 200:
                    if strip_state(saved) != strip_state(before):
                        self.faults.append(f"{session_id}: the save acknowledges another state than was there")
                    known.allowed[:] = [strip_state(saved)]
                    known.is_saved, known.may_be_gone = True, False
            elif name == "rename":
                status, found = call(url, "GET", path)
                if status == 200 and found["objects"]:
                    number = rng.choice(found["objects"])["id"]
                    label = {"label": f"thing {rng.randrange(10**6)}"}
                    status, _ = call(url, "PATCH", f"{path}/objects/{number}", label)
            elif name == "segment":
                x, y = rng.randrange(40), rng.randrange(30)
                box = {"type": "box", "box": [x, y, x + 15, y + 12]}
                status, _ = call(url, "POST", f"{path}/objects", {"prompts": [box]})
            else:
                body = {"text": f"What is this {rng.randrange(10**6)}?", "max_tokens": 3}
                status, _ = call(url, "POST", f"{path}/ask", body)
            self.counts[f"{name} {status}"] += 1
            if known.is_saved and name not in ("save", "delete"):  # it may be saved again for being idle
                state, found = call(url, "GET", path)
                if state == 200:
                    known.allowed.append(strip_state(found))
                status = state if state == 404 else status
            if status == 404 and name != "delete" and not known.may_be_gone:
                self.faults.append(f"{session_id} was saved and is gone at {name}")
            elif status not in (200, 201, 204, 404, 409, 507):
                self.faults.append(f"{name}: status {status}")
            return status not in (204, 404)

    def run_round(self, number: int, *, full: bool) -> None:
        """Start, compare, work, kill."""
        idle_s = self._rng.choice([0.4, 1800.0])
        bound = self.disk.fill(20_000) if full and not self.disk.is_mounted else None
        child, url = self.start(idle_s, bound)
        if not url:
            self.faults.append(f"the server did not start: {self._log.read_text()[-500:]}")
            return
        self.check(url)
        is_over = threading.Event()
        threads = [
            threading.Thread(target=self.work, args=(url, number * CLIENTS + n, is_over)) for n in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        if full:
            time.sleep(self._rng.uniform(0.2, 1.0))
            self.disk.fill(self._rng.choice([0, 5_000, 20_000]))
        # by what was done, not by the clock: on a slow machine, too, something has been saved
        target, end = self.counts["save 200"] + self._rng.randint(1, 6), time.monotonic() + PATIENCE_S
        while not full and self.counts["save 200"] < target and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(self._rng.uniform(0, 1.0))
        child.kill()
        is_over.set()
        for thread in threads:
            thread.join()
        self.disk.empty()

    def run(self, rounds: int) -> None:
        """All rounds, and a last comparison."""
        for number in range(rounds):
            self.run_round(number, full=number % 10 == 9)
            show(number, rounds, self.counts["sessions compared"], self.faults)
        child, url = self.start(1800.0)
        self.check(url)
        child.kill()
        print(f"disk full by {self.disk.kind}; {dict(sorted(self.counts.items()))}")


@dataclass
class Tab:
    """What somebody who works at a session in the page has been told."""

    known: Any
    """The session as it was last seen."""
    begun: tuple[str, Any] | None = None
    """A change since then: its name, and what it was about."""
    is_acknowledged: bool = False
    """Whether the server has said that it is done."""


class TabsChaos(ServerChaos):
    """People at the page: tabs that stay open, are closed, or sleep; saving is the server's own business."""

    def __init__(self, folder: Path, seed: int, kind: str) -> None:
        super().__init__(folder, seed, kind)
        self._tabs: dict[str, Tab] = {}

    def check(self, url: str) -> None:
        """Compare every session with what its tab was told."""
        for session_id, tab in list(self._tabs.items()):
            status, found = call(url, "GET", f"/v1/sessions/{session_id}")
            self.counts["sessions compared"] += 1
            state = strip_state(found) if status == 200 else None
            is_done = state is not None and tab.begun is not None and includes_change(state, tab.known, *tab.begun)
            if state is None or not (is_done or (state == tab.known and not tab.is_acknowledged)):
                change = "with a change" if tab.begun else "without a change"
                self.faults.append(
                    f"{session_id}: status {status}, acknowledged {tab.is_acknowledged} {change} is lost"
                )
                del self._tabs[session_id]
                continue
            self.counts["changes under way that were kept" if is_done and not tab.is_acknowledged else "as told"] += 1
            self._tabs[session_id] = Tab(state)

    def work(self, url: str, seed: int, is_over: threading.Event) -> None:
        """Open pictures and work at them until the server is gone."""
        rng, own = random.Random(seed), [i for n, i in enumerate(sorted(self._tabs)) if n % CLIENTS == seed % CLIENTS]
        try:
            while not is_over.is_set():
                if len(own) < 2 or (len(own) < MAX_SESSIONS and rng.random() < 0.3):
                    status, found = call(url, "POST", "/v1/sessions", {"url": self._picture})
                    if status != 201:
                        continue
                    session_id = found["id"]
                else:
                    session_id = rng.choice(own)
                path = f"/v1/sessions/{session_id}"
                call(url, "POST", f"{path}/keepalive")  # a tab is opened
                for _ in range(rng.randint(1, 5)):
                    self.change(url, session_id, rng)
                    if session_id in self._tabs and session_id not in own:
                        own.append(session_id)
                    if rng.random() < 0.4:
                        time.sleep(1.0)  # asleep: longer than it may be idle, and no sign of life on waking up
                    elif rng.random() < 0.5:
                        call(url, "POST", f"{path}/keepalive")
        except (OSError, http.client.HTTPException, ValueError):
            if not is_over.wait(5):
                self.faults.append("a connection broke off before the server was killed")

    def change(self, url: str, session_id: str, rng: random.Random) -> None:
        """One change of a session, and a look at what came of it."""
        path = f"/v1/sessions/{session_id}"
        tab = self._tabs.get(session_id)
        if tab is None:  # nothing has been done in it yet
            status, found = call(url, "GET", path)
            if status != 200:
                return
            tab = Tab(strip_state(found))
        ids = [one["id"] for one in tab.known["objects"]]
        name = rng.choice(["segment", "ask", *(["rename", "rename", "remove"] if ids else [])])
        x, y = rng.randrange(40), rng.randrange(30)
        about: Any = {
            "segment": [x, y, x + 15, y + 12],
            "ask": f"What is this {rng.randrange(10**6)}?",
        }.get(name) or (rng.choice(ids), f"thing {rng.randrange(10**6)}")
        tab.begun = name, about
        if tab.known["objects"] or tab.known["turns"]:
            self._tabs[session_id] = tab
        if name == "segment":
            status, _ = call(url, "POST", f"{path}/objects", {"prompts": [{"type": "box", "box": about}]})
        elif name == "ask":
            status, _ = call(url, "POST", f"{path}/ask", {"text": about, "max_tokens": 3})
        elif name == "rename":
            status, _ = call(url, "PATCH", f"{path}/objects/{about[0]}", {"label": about[1]})
        else:
            status, _ = call(url, "DELETE", f"{path}/objects/{about[0]}")
        self.counts[f"{name} {status}"] += 1
        if status == 404 and session_id not in self._tabs:
            self.counts["opened, left idle with nothing done, gone"] += 1
            return
        if status not in (200, 204):
            self.faults.append(f"{session_id}: {name} has the status {status}")
            return
        tab.is_acknowledged = True
        self._tabs[session_id] = tab
        self.counts["changes acknowledged"] += 1
        status, found = call(url, "GET", path)
        if status == 200:
            self._tabs[session_id] = Tab(strip_state(found))

    def run_round(self, number: int, *, full: bool) -> None:
        """Start, compare, work, kill."""
        child, url = self.start(self._rng.choice([0.4, 1800.0]))
        self.check(url)
        is_over, target = threading.Event(), self.counts["changes acknowledged"] + self._rng.randint(5, 40)
        threads = [
            threading.Thread(target=self.work, args=(url, number * CLIENTS + n, is_over)) for n in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + PATIENCE_S
        while self.counts["changes acknowledged"] < target and time.monotonic() < end:
            time.sleep(self._rng.uniform(0, 0.02))
        child.kill()
        self.counts["killed"] += 1
        is_over.set()
        for thread in threads:
            thread.join()


def includes_change(found: Any, before: Any, name: str, about: Any) -> bool:
    """Whether a session is as it was before, and what was begun is done."""
    objects, old = ({one["id"]: one for one in state["objects"]} for state in (found, before))
    turns = len(before["turns"])
    if name == "ask":
        is_asked = len(found["turns"]) == turns + 1 and found["turns"][-1]["question"] == about
        return is_asked and found["turns"][:turns] == before["turns"] and {i: objects.get(i) for i in old} == old
    if found["turns"] != before["turns"]:
        return False
    if name == "rename":
        return bool(objects == {i: {**one, "label": about[1]} if i == about[0] else one for i, one in old.items()})
    if name == "remove":
        return bool(objects == {i: one for i, one in old.items() if i != about[0]})
    new = [one for i, one in objects.items() if i not in old]
    is_kept = {i: objects.get(i) for i in old} == old
    return is_kept and len(new) == 1 and [p["box"] for p in new[0]["prompts"]] == [[float(v) for v in about]]


# train and eval


def run_command(arguments: list[str]) -> Callable[[int], None]:
    """The command line, in a forked process."""

    def work(_: int) -> None:
        from unipixel.cli import main

        sys.argv = ["unipixel", *arguments]
        main()

    return work


class CommandChaos:
    """A command that is killed until it is done, and compared with one that was left alone."""

    def __init__(self, folder: Path, seed: int, kind: str) -> None:
        self._folder, self._rng = folder, random.Random(seed)
        self.disk = Disk(folder / "disk", kind)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def get_command(self, out: Path) -> list[str]:
        """The command that writes to a folder."""
        raise NotImplementedError

    def read_result(self, out: Path) -> Any:
        """What has to be the same in the end."""
        raise NotImplementedError

    def read_progress(self, out: Path) -> list[Any]:
        """What has been done, in order; faults where it is torn."""
        raise NotImplementedError

    def is_kept(self, before: list[Any], after: list[Any]) -> bool:
        """Whether progress has lost nothing."""
        return after[: len(before)] == before

    def is_equal(self, one: Any, other: Any) -> bool:
        """Whether two results are the same."""
        return bool(one == other)

    def run(self, rounds: int) -> None:
        """Kill it ``rounds`` times."""
        whole = self._folder / "whole"
        log, began = self._folder / "command.log", time.monotonic()
        if Child(run_command(self.get_command(whole)), log).wait():
            raise SystemExit(f"the command does not work: {log.read_text()[-2000:]}")
        typical, expected = time.monotonic() - began, self.read_result(whole)
        print(f"left alone: {typical:.1f} s", flush=True)
        out, number = self.disk.folder / "run-0", 0
        before: list[Any] = []
        while number < rounds:
            full = number % 10 == 9
            bound = self.disk.fill(self._rng.randrange(200_000)) if full else None
            child = Child(run_command(self.get_command(out)), log, bound)
            code = child.wait(None if full else self._rng.uniform(0, 0.6 * typical))
            if code is None:
                child.kill()
                self.counts["killed"] += 1
            elif full and code:
                self.counts["disk full"] += 1
                said = [line for line in log.read_text().splitlines() if line.startswith("unipixel: ")]
                if code != 2 or len(said) != 1:
                    self.faults.append(f"a full disk gave the status {code} and {log.read_text()[-300:]}")
            elif code:
                self.faults.append(f"going on failed with {code}: {log.read_text()[-500:]}")
            self.disk.empty()
            after = self.read_progress(out)
            if not self.is_kept(before, after):
                self.faults.append(f"progress was lost: {len(before)} before, {len(after)} after")
            before = after
            if code == 0:
                self.counts["runs done"] += 1
                if not self.is_equal(self.read_result(out), expected):
                    self.faults.append(f"{out.name} came out other than the run that was left alone")
                shutil.rmtree(out)
                out, before = self.disk.folder / f"run-{self.counts['runs done']}", []
                continue  # nothing was killed
            number += 1
            show(number - 1, rounds, self.counts["runs done"], self.faults)
        child = Child(run_command(self.get_command(out)), log)
        if child.wait() or not self.is_equal(self.read_result(out), expected):
            self.faults.append(f"the last run failed or came out other: {log.read_text()[-500:]}")
        self.counts["runs done"] += 1
        print(f"disk full by {self.disk.kind}; {dict(self.counts)}")


class TrainChaos(CommandChaos):
    """Training by the recipe ``debug``."""

    def get_command(self, out: Path) -> list[str]:
        return [*TRAIN, "-o", str(out)]

    def read_result(self, out: Path) -> Any:
        """Weights."""
        from unipixel.model.weights import load_model

        return load_model(str(out / "final")).state_dict()

    def is_equal(self, one: Any, other: Any) -> bool:
        return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)

    def read_progress(self, out: Path) -> list[Any]:
        """Steps of the checkpoints, each of which has to be whole."""
        found = []
        for path in list_checkpoints(out) if out.is_dir() else []:
            try:
                step = json.loads((path / "trainer_state.json").read_text())["global_step"]
                torch.load(path / "optimizer.pt", weights_only=True)
                (path / "model.safetensors").stat()
            except (OSError, ValueError, RuntimeError) as error:
                self.faults.append(f"{path.name} is torn: {error}")
                continue
            found.append(step)
        log = out / "log.jsonl"
        lines = log.read_bytes().split(b"\n") if log.is_file() else []
        torn = [line for line in lines[:-1] if not line.startswith(b"{") or not line.endswith(b"}")]
        if torn:
            self.faults.append(f"log.jsonl has torn lines: {torn[0][:80]!r}")
        return found

    def is_kept(self, before: list[Any], after: list[Any]) -> bool:
        return not before or (bool(after) and after[-1] >= before[-1])


class EvalChaos(CommandChaos):
    """Evaluation on the built-in world."""

    def __init__(self, folder: Path, seed: int, kind: str) -> None:
        super().__init__(folder, seed, kind)
        self._model = folder / "model"
        setup = prepare_training(RECIPES["debug"]())
        save_whole(setup.model.config, setup.model.state_dict(), self._model, None)
        setup.processor.save(self._model)

    def get_command(self, out: Path) -> list[str]:
        return [*EVAL, "--model", str(self._model), "-o", str(out)]

    def read_progress(self, out: Path) -> list[Any]:
        """All lines, without the time that they took."""
        lines = []
        for path in sorted(out.rglob("*.jsonl"), key=lambda path: (path.stat().st_ctime_ns, path)):
            lines += [{**line.to_json(), "seconds": 0} for line in read_lines(path, PredictionLine)[1]]
        return lines

    def is_kept(self, before: list[Any], after: list[Any]) -> bool:
        return all(line in after for line in before)

    def read_result(self, out: Path) -> Any:
        """Lines, and the report without the times."""
        lines = sorted(self.read_progress(out), key=lambda line: json.dumps(line, sort_keys=True))
        return lines, strip_times(json.loads((out / "report.json").read_text()))


def strip_times(value: Any) -> Any:
    """A tree without the seconds in it."""
    if isinstance(value, dict):
        return {name: strip_times(one) for name, one in value.items() if "second" not in name}
    return [strip_times(one) for one in value] if isinstance(value, list) else value


def show(number: int, rounds: int, done: int, faults: list[str]) -> None:
    """A line now and then."""
    if number % 10 == 9 or number + 1 == rounds:
        print(f"round {number + 1} of {rounds}: {done} compared, {len(faults)} faults", flush=True)


def main() -> None:
    """Run the rounds, and end with 1 if something was lost, torn or other."""
    for name in PRELOADED:
        importlib.import_module(f"unipixel.{name}")
    parser = argparse.ArgumentParser(description="Kill and fill, and check that nothing is lost.")
    parser.add_argument("what", choices=["serve", "tabs", "train", "eval"])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", choices=["tmpfs", "rlimit"], default="tmpfs", help="how it is filled")
    given = parser.parse_args()
    kinds: dict[str, Callable[[Path, int, str], ServerChaos | TrainChaos | EvalChaos]]
    kinds = {"serve": ServerChaos, "tabs": TabsChaos, "train": TrainChaos, "eval": EvalChaos}
    with tempfile.TemporaryDirectory(prefix="unipixel-chaos-") as folder:
        chaos = kinds[given.what](Path(folder), given.seed, given.disk)
        try:
            chaos.run(given.rounds)
        finally:
            chaos.disk.close()
    for fault in chaos.faults[:20]:
        print(f"FAULT {fault}")
    print(f"{given.what}: {given.rounds} rounds, {len(chaos.faults)} faults")
    raise SystemExit(1 if chaos.faults else 0)


if __name__ == "__main__":
    main()
