"""Load on a server: clients ask, stream and work in sessions side by side, and every answer is checked.

    taskset -c 0 python tools/load_server.py --clients 32 --minutes 5
    python tools/load_server.py --clients 16 --minutes 30 --mixed --alone 0

Starts ``unipixel serve`` (with ``--serve OPTIONS``), or takes ``--url`` of one, with ``--pid`` to watch it.
Pictures and clips are sticker scenes. What is right is what the same server said before, asked one thing at a time. One
client that works through the same kinds of tasks alone is what throughput is compared with. ``--mixed`` adds large
pictures, exports, and work that is stopped, left or whose session is deleted in the middle. At the end the server gets
a quiet minute, and its memory, threads and open files over time are printed.
Ends with 1 if an answer was wrong or refused other than by 429.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from load_cases import Case, cases, compare, objects_of

TASKS = {"chat": 0.6, "stream": 0.2, "session": 0.15, "video": 0.05}
"""What clients do, and how often: a question, a streamed one, a session about a picture, one about a clip."""
MIXED = {"chat": 0.3, "stream": 0.1, "session": 0.15, "video": 0.05, "large": 0.1, "export": 0.1}
MIXED |= {"stop": 0.07, "leave": 0.06, "delete": 0.07}
"""With a large picture, exports, and work that does not come to its end."""
FINE = {200, 201, 204, 429}
CUT_SHORT = {404, 409}
"""What work may be answered with whose session was stopped or deleted before it began."""
IDLE_S = 5.0
"""Seconds after which a connection is made anew: the server closes idle ones."""
SAMPLE_S = 2.0
REST_S = 60.0
"""Seconds of quiet at the end, in which memory, threads and files come back."""


@dataclass
class Tally:
    """What the clients of one phase have seen."""

    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of answers, by kind; of streams also until the first event."""
    verdicts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    """Connections that broke off."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    took_s: float = 0.0
    server_cpu_s: float = 0.0

    @property
    def answers(self) -> int:
        """Requests that the model worked on."""
        return sum(self.verdicts.values())

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answers / self.took_s

    def add(self, other: Tally) -> None:
        """Take in what clients have seen at another time."""
        for kind, seconds in other.seconds.items():
            self.seconds[kind] += seconds
        self.verdicts += other.verdicts
        self.statuses += other.statuses
        self.broken += other.broken
        self.took_s += other.took_s
        self.server_cpu_s += other.server_cpu_s

    def line(self, name: str) -> str:
        """For people."""
        cpu_ms = 1000 * self.server_cpu_s / max(self.answers, 1)
        rate = f"{self.rate:.2f}/s, {cpu_ms:.0f} ms of the server's CPU each"
        return f"{name}: {self.took_s:.0f} s, {self.answers} answers, {rate}; {dict(self.verdicts)}"


class Client:
    """One client with a connection of its own."""

    def __init__(self, url: str, tally: Tally) -> None:
        self._url, self._tally = url, tally
        self._line = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
        self._used_s = time.monotonic()

    def connect(self) -> Client:
        """Another connection of the same client."""
        return Client(self._url, self._tally)

    def send(self, kind: str, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and content; one that is told to come back later does so."""
        while True:
            since = time.monotonic()
            if since - self._used_s > IDLE_S:
                self._line.close()
            self._line.request(method, path, body, {"Content-Type": "application/json"})
            reply = self._line.getresponse()
            first = reply.read1(65536) if kind.endswith("stream") else b""
            begun = time.monotonic() - since
            content = first + reply.read()
            self._used_s = time.monotonic()
            spent = self._used_s - since
            with self._tally.lock:
                self._tally.statuses[reply.status] += 1
                if reply.status < 300:
                    self._tally.seconds[kind].append(spent)
                    if first:
                        self._tally.seconds[f"{kind}, first event"].append(begun)
            if reply.status != 429:
                return reply.status, content
            time.sleep(float(reply.headers["Retry-After"]))

    def begin(self, path: str, body: bytes) -> http.client.HTTPResponse:
        """A stream of which only the first bytes are read."""
        while True:
            self._line.request("POST", path, body, {"Content-Type": "application/json"})
            reply = self._line.getresponse()
            if reply.status != 429:
                break
            reply.read()
            self._count(reply.status)
            time.sleep(float(reply.headers["Retry-After"]))
        reply.read1(64)
        return reply

    def _count(self, status: int) -> None:
        with self._tally.lock:
            self._tally.statuses[status] += 1

    def end(self, reply: http.client.HTTPResponse) -> None:
        """Read the rest of a stream that was cut short."""
        content = reply.read()
        if reply.status not in CUT_SHORT:
            self._count(reply.status)
            if reply.status == 200 and not content.endswith(b"data: [DONE]\n\n"):
                raise ValueError("a stream that was cut short has no end")

    def close(self) -> None:
        """Give up the connection."""
        self._line.close()


def cut_short(task: str, case: Case, client: Client) -> None:
    """Begin work on a clip, and stop it, leave, or delete its session in the middle."""
    status, content = client.send(f"{task}: open", "POST", "/v1/sessions", case.open_clip)
    if status != 201:
        return
    address = f"/v1/sessions/{json.loads(content)['id']}"
    other = client.connect()
    try:
        reply = other.begin(f"{address}/objects", case.box)
        if task == "stop":
            client.send("stop", "POST", f"{address}/stop", b"{}")
            other.end(reply)
        elif task == "delete":
            client.send("delete", "DELETE", address)
            other.end(reply)
            return
    finally:
        other.close()
    client.send(f"{task}: close", "DELETE", address)


def perform(task: str, case: Case, client: Client) -> Iterator[tuple[str, Any]]:
    """Do a task; yields the name and the content of everything that is to be as before."""
    if task == "chat":
        _, content = client.send("chat", "POST", "/v1/chat/completions", case.chat)
        yield "chat", objects_of(content)
    elif task == "stream":
        _, content = client.send("chat stream", "POST", "/v1/chat/completions", case.chat_stream)
        yield "stream", objects_of(content)
    elif task == "large":
        _, content = client.send("large", "POST", "/v1/chat/completions", case.large)
        yield "large", objects_of(content)
    elif task in ("stop", "leave", "delete"):
        cut_short(task, case, client)
    else:
        opening = case.open_clip if task == "video" else case.open
        status, content = client.send(f"{task}: open", "POST", "/v1/sessions", opening)
        if status != 201:
            return
        address = f"/v1/sessions/{json.loads(content)['id']}"
        _, content = client.send(f"{task}: box, stream", "POST", f"{address}/objects", case.box)
        yield f"{task} box", objects_of(content)
        _, content = client.send(f"{task}: ask, stream", "POST", f"{address}/ask", case.ask)
        yield f"{task} ask", objects_of(content)
        if task == "export":
            for path in ("/export?format=davis", "/export?format=overlay", "/frames/0?format=png"):
                status, content = client.send(path.partition("?")[0], "GET", address + path)
                yield f"{task} {path}", (str(status), [[len(content) > 0, []]])
        client.send(f"{task}: close", "DELETE", address)


def work(url: str, seed: int, given: Sequence[Case], end: float, tally: Tally, tasks: Mapping[str, float]) -> None:
    """Do tasks at random until the time is over."""
    rng, client = np.random.default_rng(seed), Client(url, tally)
    while time.monotonic() < end:
        case = given[int(rng.integers(len(given)))]
        task = str(rng.choice(list(tasks), p=list(tasks.values())))
        try:
            for name, told in perform(task, case, client):
                verdict = compare(told, case.expected[name])
                with tally.lock:
                    tally.verdicts[verdict] += 1
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            with tally.lock:
                tally.broken[f"{task}: {type(error).__name__}: {error}"[:200]] += 1
            client.close()
    client.close()


def phase(
    url: str,
    clients: int,
    seconds: float,
    given: Sequence[Case],
    seed: int,
    pid: int | None,
    tasks: Mapping[str, float] = TASKS,
) -> Tally:
    """Let so many clients work for a while."""
    tally, since, spent = Tally(), time.monotonic(), cpu_seconds(pid)
    threads = [
        threading.Thread(target=work, args=(url, seed + n, given, since + seconds, tally, tasks))
        for n in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally.took_s, tally.server_cpu_s = time.monotonic() - since, cpu_seconds(pid) - spent
    return tally


def learn(url: str, given: Sequence[Case], tasks: Iterable[str] = TASKS) -> None:
    """Ask everything once, one at a time: what is right from then on."""
    client = Client(url, Tally())
    for case in given:
        for task in tasks:
            for name, told in perform(task, case, client):
                case.expected[name] = told
    client.close()


def cpu_seconds(pid: int | None) -> float:
    """Processor time that a process has taken; 0 where that cannot be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def _read_status(folder: Path, name: str) -> int:
    return int((folder / "status").read_text().partition(f"{name}:")[2].split()[0])


class Watch(threading.Thread):
    """Samples what a process holds until it is told to stop."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(daemon=True)
        self._folder, self._over = Path(f"/proc/{pid}"), threading.Event()
        self._began = time.monotonic()
        self.samples: list[tuple[float, float, int, int, float]] = []
        """Seconds, resident megabytes, threads, open files, resident megabytes of the processes that decode media."""

    def run(self) -> None:
        """Sample."""
        while not self._over.wait(SAMPLE_S):
            try:
                memory, threads = (_read_status(self._folder, name) for name in ("VmRSS", "Threads"))
                files = len(os.listdir(self._folder / "fd"))
            except (OSError, IndexError):
                return
            children = 0
            for path in self._folder.glob("task/*/children"):
                with suppress(OSError, IndexError):  # it has just ended
                    children += sum(_read_status(Path(f"/proc/{pid}"), "VmRSS") for pid in path.read_text().split())
            self.samples.append((time.monotonic() - self._began, memory / 1024, threads, files, children / 1024))

    def stop(self) -> None:
        """No more of it."""
        self._over.set()

    def describe(self) -> str:
        """A row for each minute (of short runs, for each sample), and first against last minute."""
        if not self.samples:
            return "memory: unknown, give --pid"
        step = 60.0 if self.samples[-1][0] > 180 else SAMPLE_S * 5
        rows = ["   minute   MB mean   MB most   threads   files   MB of decoders, most"]
        for number in range(int(self.samples[-1][0] // step) + 1):
            some = [sample for sample in self.samples if number * step <= sample[0] < (number + 1) * step]
            if some:
                memory = [sample[1] for sample in some]
                minute = (number + 1) * step / 60
                rows.append(
                    f"{minute:9.1f} {np.mean(memory):9.0f} {max(memory):9.0f} {some[-1][2]:9d} {some[-1][3]:7d} "
                    f"{max(sample[4] for sample in some):11.0f}"
                )
        minute = max(1, min(round(60 / SAMPLE_S), len(self.samples) // 2))
        first, last = (np.mean([s[1] for s in part]) for part in (self.samples[:minute], self.samples[-minute:]))
        most = max(sample[1] for sample in self.samples)
        return "\n".join(
            [*rows, f"memory of the server: first minute {first:.0f} MB, last {last:.0f} MB, most {most:.0f} MB"]
        )


@contextmanager
def server(options: str) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address and process id."""
    command = [sys.executable, "-m", "unipixel", "serve", "--port", "0", "--no-state", *shlex.split(options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        told = next((line for line in process.stderr if "serving" in line), "")
        if not told:
            raise RuntimeError("the server did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield told.split()[-1], process.pid
    finally:
        process.terminate()
        process.wait()


def report(alone: Tally, load: Tally, clients: int, watch: Watch) -> bool:
    """Print the figures; whether all was well."""
    if alone.answers:
        print(alone.line("one client"))
    print(load.line(f"{clients} clients"))
    print(f"statuses {dict(load.statuses)}")
    for kind, seconds in sorted(load.seconds.items()):
        one = alone.seconds[kind] or [float("nan")]
        p50, p95 = np.percentile(seconds, [50, 95])
        print(
            f"  {kind:28s} {len(seconds):6d}  p50 {p50:6.2f} s  p95 {p95:6.2f} s  (alone p50 {np.median(one):5.2f} s)"
        )
    if alone.answers:
        ratio = load.rate / alone.rate
        print(f"throughput {load.rate:.2f} answers/s against {alone.rate:.2f}/s one at a time: {ratio:.2f}x")
    if load.server_cpu_s and alone.answers:
        cpu = (alone.server_cpu_s / alone.answers) / (load.server_cpu_s / load.answers)
        print(f"by the server's CPU time per answer: {cpu:.2f}x")
    print(watch.describe())
    broken, statuses = alone.broken + load.broken, {*alone.statuses, *load.statuses}
    wrong = alone.verdicts["wrong"] + load.verdicts["wrong"]
    print(f"wrong answers {wrong}, broken connections {dict(broken)}, other statuses {sorted(statuses - FINE)}")
    return not wrong and not broken and statuses <= FINE


def measured(url: str, pid: int | None, given: argparse.Namespace) -> bool:
    """The whole run against a server; whether all was well."""
    model = json.loads(_get(url, "/health"))["model"]
    made, tasks = cases(given.pictures, model), MIXED if given.mixed else TASKS
    learn(url, made, tasks)
    alone, load, watch = Tally(), Tally(), Watch(pid)
    watch.start()
    for number in range(given.rounds):
        if given.alone:
            alone.add(phase(url, 1, given.alone / given.rounds, made, 1000 + number, pid, tasks))
        seconds = 60 * given.minutes / given.rounds
        load.add(phase(url, given.clients, seconds, made, 2000 + 100 * number, pid, tasks))
    time.sleep(given.rest)
    watch.stop()
    return report(alone, load, given.clients, watch)


def _get(url: str, path: str) -> bytes:
    line = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    line.request("GET", path)
    content = line.getresponse().read()
    line.close()
    return content


def main() -> None:
    """Print the figures, and end with 1 if something was wrong."""
    parser = argparse.ArgumentParser(description="Load a server and check every answer.")
    parser.add_argument("--url", help="of a running server; by default one is started")
    parser.add_argument("--pid", type=int, help="of that server, to watch its memory")
    parser.add_argument("--serve", default="", metavar="OPTIONS", help="for the server that is started")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--mixed", action="store_true", help="also what is large, exported, or cut short")
    parser.add_argument("--alone", type=float, default=100, help="seconds for the one client; 0: there is none")
    parser.add_argument("--rest", type=float, default=REST_S, help="seconds of quiet at the end")
    parser.add_argument("--rounds", type=int, default=1, help="take turns; for a machine that has other work, too")
    parser.add_argument("--pictures", type=int, default=16)
    given = parser.parse_args()
    if given.url:
        well = measured(given.url, given.pid, given)
    else:
        with server(given.serve) as (url, pid):
            well = measured(url, pid, given)
    raise SystemExit(0 if well else 1)


if __name__ == "__main__":
    main()
