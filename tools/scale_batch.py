"""Run `unipixel batch` and `unipixel eval` on several local Ray nodes, measure them, and do them harm.

    python tools/scale_batch.py throughput --sizes 200 1000 2000   # one actor against two, and their memory
    python tools/scale_batch.py chaos --rounds 10                  # kills, a lost node, a full disk; nothing lost
    python tools/scale_batch.py eval                               # a benchmark on two nodes, as from one process
    python tools/scale_batch.py s3                                 # an S3 server whose network fails for a while

Needs ``unipixel[scale]``; ``s3`` also ``moto[server]``. Every twentieth picture is damaged. Answers are compared, all
but their times, with those of one process without Ray. Ends with 1 if anything was lost, doubled or other than there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image, ImageDraw

from unipixel.batch import read_answers
from unipixel.masks import decode_rle

ROOT = Path(__file__).resolve().parent.parent
PORT = 6399
QUESTION = "Please segment the ball"
TIMES = ("seconds", "timings_s", "attempts", "media", "id")
"""Columns in which two runs may differ."""
BUSY = {
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",  # the nodes listen on this machine alone
    "RAY_worker_niceness": "0",
    "RAY_DISABLE_MEMORY_MONITOR": "1",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_gcs_server_request_timeout_seconds": "300",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_initial_delay_ms": "60000",
}
"""Patience of Ray on a machine that has other work."""


def build_environment() -> dict[str, str]:
    """What every process here is started with."""
    return {**os.environ, **BUSY, "PYTHONPATH": str(ROOT)}


def draw_media(folder: Path, pictures: int, clips: int) -> None:
    """Small pictures and clips of coloured discs; every twentieth picture is cut off in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    for number in range(pictures):
        path = folder / f"picture-{number:05d}.png"
        draw_discs(chance, 0).save(path)
        if number % 20 == 7:
            path.write_bytes(path.read_bytes()[:60])
    for number in range(clips):
        frames = [draw_discs(np.random.default_rng(number), shift) for shift in range(0, 16, 4)]
        frames[0].save(folder / f"clip-{number:05d}.gif", save_all=True, append_images=frames[1:], duration=100)


def draw_discs(chance: np.random.Generator, shift: int) -> Image.Image:
    """A picture of three discs."""
    image = Image.new("RGB", (96, 72), tuple(chance.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, radius = (int(chance.integers(low, high)) for low, high in ((0, 80), (0, 60), (6, 18)))
        colour = tuple(chance.integers(0, 256, 3).tolist())
        pen.ellipse((x + shift, y, x + shift + 2 * radius, y + 2 * radius), fill=colour)
    return image


class Node:
    """A Ray node of its own on this machine, with all its processes in one group.

    Args:
        number: decides its ports.
        cpus: that it offers.
        head: whether others join it.
    """

    def __init__(self, number: int, cpus: int, *, head: bool) -> None:
        first = 9090 + 20 * number
        where = [f"--address=127.0.0.1:{PORT}"]
        if head:
            where = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        ports = ["metrics-export-port", "dashboard-agent-listen-port", "runtime-env-agent-port"]
        workers = [f"--min-worker-port={21000 + 100 * number}", f"--max-worker-port={21099 + 100 * number}"]
        ray = Path(sys.executable).with_name("ray")
        self._popen = subprocess.Popen(
            [str(ray), "start", "--block", *where, f"--num-cpus={cpus}", "--object-store-memory=100000000", *workers]
            + [f"--{name}={first + place}" for place, name in enumerate(ports)]
            + [f"--dashboard-agent-grpc-port={first + 3}", "--disable-usage-stats"],
            env=build_environment(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def list_actors(self) -> list[psutil.Process]:
        """Its processes with a model."""
        return find_actors(self._popen.pid)

    def remove(self) -> None:
        """Kill all of it at once, as a machine that loses its power."""
        processes = [self._popen.pid]
        with suppress(psutil.Error):
            processes += [one.pid for one in psutil.Process(self._popen.pid).children(recursive=True)]
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._popen.wait()


def find_actors(parent: int) -> list[psutil.Process]:
    """Processes with a model below another one."""
    found = []
    with suppress(psutil.Error):
        for one in psutil.Process(parent).children(recursive=True):
            with suppress(psutil.Error):
                if "ShardActor" in " ".join(one.cmdline()):
                    found.append(one)
    return found


def start_node(number: int, cpus: int, expected: int) -> Node:
    """A node that has joined the cluster, which has so many then; the first is the head.

    Ray gives a node up that does not start within seconds, as happens beside other work: then it is started again.
    """
    for _ in range(4):
        node = Node(number, cpus, head=number == 0)
        try:
            wait_for_nodes(expected)
            return node
        except (RuntimeError, subprocess.TimeoutExpired):
            node.remove()
    raise RuntimeError(f"node {number} does not come up")


def wait_for_nodes(number: int) -> None:
    """Return when the cluster has so many nodes."""
    code = (
        f"import ray, time; ray.init('127.0.0.1:{PORT}', log_to_driver=False)\n"
        f"while sum(one['Alive'] for one in ray.nodes()) != {number}: time.sleep(1)"
    )
    for _ in range(10):
        done = subprocess.run([sys.executable, "-c", code], env=build_environment(), capture_output=True, timeout=150)
        if done.returncode == 0:
            return
        time.sleep(3)
    raise RuntimeError(f"the cluster of {number} nodes does not come up: {done.stderr.decode()[-300:]}")


def start_command(*words: object, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start the command line."""
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "unipixel", *map(str, words)],
            env=build_environment() | environment,
            stdout=file,
            stderr=file,
        )


def run_command(*words: object, log: Path, **environment: str) -> None:
    """Run the command line to its end.

    Raises:
        RuntimeError: it failed.
    """
    if start_command(*words, log=log, **environment).wait():
        raise RuntimeError(f"unipixel {words[0]} failed: {log.read_text()[-500:]}")


def list_rows(out: str | Path) -> list[dict[str, Any]]:
    """Answers without what may differ."""
    return [
        {name: value for name, value in row.items() if name not in TIMES} | {"name": Path(row["media"]).name}
        for row in read_answers(out)
    ]


def compare(own: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> list[str]:
    """What is lost, doubled or different."""
    faults = []
    numbers = [row["item"] for row in own]
    faults += [f"item {row['item']} is lost" for row in reference if row["item"] not in set(numbers)]
    faults += [
        f"item {number} is there {numbers.count(number)} times" for number in set(numbers) if numbers.count(number) > 1
    ]
    known = {row["item"]: row for row in reference}
    for row in own:
        other = known.get(row["item"], {})
        different = [name for name in row if name != "error" and row[name] != other.get(name)]
        faults += [f"item {row['item']}: {name} differs" for name in different if name != "objects"]
        if "objects" in different:
            faults.append(f"item {row['item']}: {describe_difference(row['objects'], other.get('objects') or [])}")
    return faults


def describe_difference(own: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    """How far the objects of two answers are from each other."""
    if [one["label"] for one in own] != [one["label"] for one in others]:
        return f"{len(own)} objects instead of {len(others)}, or others"
    pairs = [(a, b) for one, other in zip(own, others, strict=True) for a, b in zip_longest(one["rles"], other["rles"])]
    drawn = [
        [decode_rle({"size": [x["height"], x["width"]], "counts": x["counts"]}) for x in pair if x] for pair in pairs
    ]
    pixels = sum(int((masks[0] ^ masks[-1]).sum() if len(masks) > 1 else masks[0].sum()) for masks in drawn if masks)
    return f"masks differ in {pixels} pixels" if pixels else "scores differ, masks do not"


@contextmanager
def open_disk(folder: Path) -> Iterator[Callable[[bool], None]]:
    """A small disk at a folder, and the way to fill it (True) and to free it.

    Without the right to mount, a plain folder whose disk is never full.
    """
    folder.mkdir(parents=True)
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], capture_output=True).returncode == 0
    )
    ballast = folder / "ballast"

    def fill(full: bool) -> None:
        if not mounted:
            print("  the disk cannot be filled here: no right to mount one")
        elif full:
            with suppress(OSError), open(ballast, "wb", buffering=0) as file:
                while file.write(b"\0" * 4096):
                    pass
        else:
            ballast.unlink(missing_ok=True)

    try:
        yield fill
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder], check=True)


def measure_throughput(options: argparse.Namespace, folder: Path) -> int:
    """Items per second between the first finished shard and the last, and the largest memory of driver and actors."""
    print("items actors   items/s  driver MB  actor MB  failed")
    rates: dict[tuple[int, int], float] = {}
    for size in options.sizes:
        source = folder / f"in-{size}"
        draw_media(source, size, size // 40)
        for actors in options.actors:
            out = folder / f"out-{size}-{actors}"
            words = [
                source,
                QUESTION,
                "-o",
                out,
                "--actors",
                actors,
                "--threads",
                1,
                "--shard-size",
                options.shard_size,
            ]
            driver = start_command("batch", *words, *options.extra, log=folder / "log")
            most = {"driver": 0, "actor": 0}
            while driver.poll() is None:
                with suppress(psutil.Error):
                    most["driver"] = max(most["driver"], psutil.Process(driver.pid).memory_info().rss)
                    for one in find_actors(driver.pid) or find_actors(1):
                        most["actor"] = max(most["actor"], one.memory_info().rss)
                time.sleep(1)
            if driver.returncode:
                raise RuntimeError(f"unipixel batch failed: {(folder / 'log').read_text()[-500:]}")
            ends = sorted(path.stat().st_mtime for path in (out / "answers").iterdir())
            rows = list_rows(out)
            # each actor's first shard is when it has begun
            counted = len(rows) * (len(ends) - actors) / len(ends)
            rates[size, actors] = counted / max(ends[-1] - ends[actors - 1], 1e-6)
            failed = sum(row["error_kind"] is not None for row in rows)
            memory = f"{most['driver'] / 1e6:9.0f} {most['actor'] / 1e6:9.0f}"
            print(f"{len(rows):5} {actors:6} {rates[size, actors]:9.2f}  {memory} {failed:7}", flush=True)
    for size in options.sizes:
        first, last = options.actors[0], options.actors[-1]
        print(
            f"{size} pictures: {last} actors are {rates[size, last] / rates[size, first]:.2f} times as fast as {first}"
        )
    return 0


def run_chaos(options: argparse.Namespace, folder: Path) -> int:
    """Rounds of kills; returns the number of faults."""
    chance = random.Random(options.seed)
    source, log = folder / "in", folder / "log"
    draw_media(source, options.pictures, options.clips)
    batch = [
        "batch",
        source,
        QUESTION,
        "--threads",
        1,
        "--shard-size",
        options.shard_size,
        "--batch-size",
        options.batch_size,
        "--max-bad",
        1,
        "--retries",
        3,
    ]
    run_command(*batch, "-o", folder / "serial", log=log)
    reference = list_rows(folder / "serial")
    head = start_node(0, 5, 1)
    faults = 0
    try:
        for number in range(options.rounds):
            second = start_node(1, 1, 2)
            with open_disk(folder / f"disk-{number}") as fill:
                out = folder / f"disk-{number}" / "out"
                words = [*batch, "-o", out, "--actors", 2, "--address", f"127.0.0.1:{PORT}"]
                events = ["actor"] * 3 + ["node", "driver", "disk"]
                chance.shuffle(events)
                happened = harm(words, events, chance, out, [head, second], fill, log)
                found = compare(list_rows(out), reference)
                faults += len(found)
                print(f"round {number}: {', '.join(happened)}; {len(reference)} items, {len(found)} faults", flush=True)
                for one in found[:5]:
                    print(f"  {one}")
            second.remove()
    finally:
        head.remove()
    return faults


def has_begun(out: Path, since: float) -> bool:
    """Whether an item was asked after a moment, as the notes of the workers tell."""
    with suppress(OSError):
        return any(path.stat().st_mtime > since for path in (out / "attempts").glob("*.json"))
    return False


def harm(
    words: Sequence[object],
    events: list[str],
    chance: random.Random,
    out: Path,
    nodes: Sequence[Node],
    fill: Callable[[bool], None],
    log: Path,
) -> list[str]:
    """Run a batch to its end while things happen to it; returns what did, with the shards that were finished then."""
    happened: list[str] = []
    driver = start_command(*words, log=log)
    waiting = list(events)
    since = 0.0
    while waiting:
        # a process with a model is in the middle of something that it has begun after the last harm
        while driver.poll() is None and not has_begun(out, since):
            time.sleep(0.1)
        time.sleep(chance.uniform(0.0, 3.0))
        if driver.poll() == 0:
            happened.append(f"too late for {', '.join(waiting)}")
            return happened
        event = waiting.pop(0)
        done = len(list((out / "answers").glob("*.parquet"))) if (out / "answers").is_dir() else 0
        if event == "actor":
            actors = [one for node in nodes for one in node.list_actors()]
            if not actors:
                waiting.append(event)
                continue
            with suppress(psutil.Error):
                chance.choice(actors).kill()
        elif event == "node":
            nodes[1].remove()
        elif event == "driver":
            driver.kill()
            driver.wait()
            driver = start_command(*words, log=log)
        else:
            fill(True)
            # the driver ends with a sentence, or waits for room that comes soon enough
            with suppress(subprocess.TimeoutExpired):
                driver.wait(timeout=60)
            fill(False)
        happened.append(f"{event} at {done}")
        since = time.time()
        if driver.poll() not in (None, 0):
            driver = start_command(*words, log=log)
    for _ in range(3):
        if driver.wait() == 0:
            return happened
        driver = start_command(*words, log=log)
    raise RuntimeError(f"the batch does not end well: {log.read_text()[-500:]}")


def run_evaluation(options: argparse.Namespace, folder: Path) -> int:
    """A miniature benchmark by one process and on two nodes; returns the number of reports that differ."""
    sys.path.insert(0, str(ROOT / "tests"))
    from miniatures import write_miniatures

    write_miniatures(folder / "data")
    words = [
        "eval",
        *options.benchmarks,
        "--data-root",
        folder / "data",
        "--model",
        options.model,
        "--limit",
        options.limit,
    ]
    run_command(*words, "-o", folder / "serial", log=folder / "log")
    head, second = start_node(0, 2, 1), None
    try:
        second = start_node(1, 2, 2)
        where = ["--address", f"127.0.0.1:{PORT}", "--actors", 2]
        run_command(*words, "-o", folder / "cluster", *where, log=folder / "log")
    finally:
        for node in filter(None, (second, head)):
            node.remove()
    faults = 0
    for name in ("report.json", "report.md", "report.html"):
        same = (folder / "serial" / name).read_bytes() == (folder / "cluster" / name).read_bytes()
        faults += not same
        print(f"{name}: {'the same bytes' if same else 'DIFFERENT'}, {(folder / 'cluster' / name).stat().st_size}")
    parts = len(list((folder / "cluster").glob("*/*/*.jsonl")))
    print(f"{parts} parts, benchmarks {', '.join(options.benchmarks)}, model {options.model}")
    return faults


class FaultyNetwork:
    """Passes connections on to a port, and cuts all of them while it is down."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._down = threading.Event()
        self._open: list[socket.socket] = []
        self.cuts = 0
        """Connections that were cut or refused."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def fail(self, seconds: float) -> None:
        """Be down for a while."""
        self._down.set()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
                self.cuts += 1
        time.sleep(seconds)
        self._down.clear()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._down.is_set():
                self.cuts += 1
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._target))
            self._open += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.close()


def run_object_store(options: argparse.Namespace, folder: Path) -> int:
    """Input and output in an S3 server on this machine, whose network fails while items are answered."""
    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    network = FaultyNetwork(server.get_host_and_port()[1])
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{network.port}"})
    source, log = folder / "in", folder / "log"
    draw_media(source, options.pictures, options.clips)
    words = [QUESTION, "--shard-size", options.shard_size, "--max-bad", 1]
    run_command("batch", source, *words, "-o", folder / "serial", log=log)
    store = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    store.mkdir("lake")
    store.put(str(source), "lake/in", recursive=True)
    out = "s3://lake/out"
    driver = start_command("batch", "s3://lake/in", *words, "-o", out, "--actors", options.actors, "--coco", log=log)
    while driver.poll() is None and not store.glob("lake/out/answers/*.parquet"):
        time.sleep(0.5)
    before = len(store.glob("lake/out/answers/*.parquet"))
    network.fail(options.seconds)
    code = driver.wait()
    found = compare(list_rows(out), list_rows(folder / "serial"))
    print(
        f"exit code {code}; the network failed for {options.seconds:g} s after {before} shards: {network.cuts} "
        "connections cut"
    )
    print(f"{len(list_rows(out))} items in {len(store.glob('lake/out/answers/*.parquet'))} shards, {len(found)} faults")
    for one in found[:5]:
        print(f"  {one}")
    server.stop()
    return len(found) + code


def main() -> None:
    """Run one of the four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("throughput")
    one.add_argument("--sizes", type=int, nargs="+", default=[200])
    one.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    one.add_argument("--shard-size", type=int, default=20)
    one.add_argument("--extra", action="append", default=[], help="a further word for `unipixel batch`: --extra=--coco")
    one.set_defaults(run=measure_throughput)
    one = commands.add_parser("chaos")
    one.add_argument("--rounds", type=int, default=10)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--pictures", type=int, default=200)
    one.add_argument("--clips", type=int, default=4)
    one.add_argument("--shard-size", type=int, default=8)
    one.add_argument("--batch-size", type=int, default=1, help="above 1 sums are rounded otherwise after a kill")
    one.set_defaults(run=run_chaos)
    one = commands.add_parser("eval")
    one.add_argument("benchmarks", nargs="*", default=["refcoco/testA"])
    one.add_argument("--model", default="nano")
    one.add_argument("--limit", type=int, default=20)
    one.set_defaults(run=run_evaluation)
    one = commands.add_parser("s3")
    one.add_argument("--pictures", type=int, default=40)
    one.add_argument("--clips", type=int, default=2)
    one.add_argument("--shard-size", type=int, default=8)
    one.add_argument("--actors", type=int, default=0)
    one.add_argument("--seconds", type=float, default=8.0, help="how long the network fails")
    one.set_defaults(run=run_object_store)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="unipixel-scale-"))
    begin = time.monotonic()
    try:
        faults = options.run(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"faults": faults, "seconds": round(time.monotonic() - begin, 1)}))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
