"""What the server gains by writing replies together: one request at a time against several, in turns in one run.

    python tools/bench_batching.py                                      # the bundled nano
    python tools/bench_batching.py --shape 3b --layers 8 --tokens 64    # random weights of the 3B's width; 4 GB

Starts the HTTP server in this process once for each number of requests that may be under way (``--max-running``), on
one engine and one thread. Clients ask about pictures, every other one as a stream. Each line: seconds and processor
seconds an answer, tokens a second of all clients together, seconds until the first words of streams, how many replies
shared a reading of the weights, and how many answers say the same as those that one client was given.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from statistics import mean, median
from typing import Any

import httpx2 as httpx
import torch
from load_cases import cases

import unipixel
from unipixel.bench.scene import build_random_engine
from unipixel.engine.generation import find_batch
from unipixel.model.presets import build_released_config
from unipixel.serve import ServeSettings
from unipixel.serve.server import Server


def build_wide_engine(layers: int) -> unipixel.Engine:
    """Random weights in bf16: a decoder of the 3B's width, vision and segmenter of nano's."""
    language = build_released_config("3b").language
    language.num_hidden_layers = layers
    language.layer_types = language.layer_types[:layers]
    engine = build_random_engine(None, dtype=torch.bfloat16, language=language)
    entries = len(engine.processor.tokenizer)
    engine.model.lm_head.weight.data[entries:] = 0  # what it says shall be words, which can be compared
    return engine


@contextmanager
def serve(engine: unipixel.Engine, max_running: int) -> Iterator[str]:
    """A server's address while it runs."""
    address: Queue[str] = Queue()
    settings = ServeSettings(port=0, model_name="bench", max_running=max_running, max_queue=1000, cached_sessions=0)
    server = Server(engine, settings, address.put)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield address.get(timeout=60)
    finally:
        server.should_exit = True
        thread.join()


def ask(client: httpx.Client, body: dict[str, Any]) -> tuple[str, int, float]:
    """Words, tokens and, of a stream, seconds until the first words."""
    since, first = time.monotonic(), float("nan")
    if not body.get("stream"):
        reply = client.post("/v1/chat/completions", json=body).raise_for_status().json()
        return reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"], first
    words, tokens = "", 0
    with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    first = min(time.monotonic() - since, first) if first == first else time.monotonic() - since
                    words += choice["delta"]["content"]
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    return words, tokens, first


def measure(
    engine: unipixel.Engine, bodies: list[dict[str, Any]], clients: int, max_running: int
) -> tuple[list[str], dict[str, float], Counter[int]]:
    """Answers, figures, and how often how many replies were written together."""
    sizes = find_batch(engine.model).sizes
    sizes.clear()
    answers: list[tuple[str, int, float]] = [("", 0, 0.0)] * len(bodies)
    places, lock = iter(range(len(bodies))), threading.Lock()
    with serve(engine, max_running) as address:

        def work() -> None:
            with httpx.Client(base_url=address, timeout=3600) as client:
                while True:
                    with lock:
                        place = next(places, None)
                    if place is None:
                        return
                    answers[place] = ask(client, bodies[place])

        threads = [threading.Thread(target=work) for _ in range(clients)]
        since, cpu = time.monotonic(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took, spent = time.monotonic() - since, time.process_time() - cpu
    firsts = [first for _, _, first in answers if first == first]
    figures = {
        "seconds": took / len(bodies),
        "processor": spent / len(bodies),
        "tokens": sum(tokens for _, tokens, _ in answers) / took,
        "first": median(firsts) if firsts else float("nan"),
    }
    return [words for words, _, _ in answers], figures, Counter(sizes)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=["nano", "3b"], default="nano")
    parser.add_argument("--layers", type=int, default=8, help="of the decoder of the 3B's 36")
    parser.add_argument("--tokens", type=int, default=32, help="longest answer")
    parser.add_argument("--questions", type=int, default=64, help="for each line")
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--running", type=int, nargs="+", default=[1, 8, 32], help="requests under way at a time")
    parser.add_argument("--rounds", type=int, default=2, help="take turns")
    given = parser.parse_args()
    torch.set_num_threads(1)
    engine = unipixel.load("nano") if given.shape == "nano" else build_wide_engine(given.layers)
    bodies = []
    for number, case in enumerate(cases(given.questions, "bench")):
        body = json.loads(case.chat)
        bodies.append(
            {**body, "max_tokens": given.tokens}
            | ({"stream": True, "stream_options": {"include_usage": True}} if number % 2 else {})
        )
    expected, _, _ = measure(engine, bodies, 1, 1)
    for clients in given.clients:
        lines: dict[int, list[dict[str, float]]] = {running: [] for running in given.running}
        same: Counter[int] = Counter()
        sizes: dict[int, Counter[int]] = {running: Counter() for running in given.running}
        for _ in range(given.rounds):
            for running in given.running:
                words, figures, counts = measure(engine, bodies, clients, running)
                lines[running].append(figures)
                sizes[running] += counts
                same[running] += sum(one == other for one, other in zip(words, expected, strict=True))
        for running, rounds in lines.items():
            line = {name: mean(one[name] for one in rounds) for name in rounds[0]}
            first = {name: mean(one[name] for one in lines[given.running[0]]) for name in ("seconds", "processor")}
            read = sum(size * times for size, times in sizes[running].items())
            print(
                f"{clients} clients, {running} under way: {line['seconds']:.3f} s an answer "
                f"({first['seconds'] / line['seconds']:.2f}x), {line['processor']:.3f} s of the processor "
                f"({first['processor'] / line['processor']:.2f}x), {line['tokens']:.1f} tokens/s, first words after "
                f"{line['first']:.2f} s, {read / max(sum(sizes[running].values()), 1):.1f} replies together, "
                f"{same[running]} of {len(bodies) * len(rounds)} the same words",
                flush=True,
            )


if __name__ == "__main__":
    main()
