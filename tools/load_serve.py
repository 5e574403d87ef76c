"""Load on a running server: many clients ask about several pictures, and every answer is checked against its own masks.

    unipixel serve --port 8000 &
    python tools/load_serve.py --url http://127.0.0.1:8000 --clients 32 --seconds 300

Pictures are sticker scenes. Expected answers come from the same server before the load begins, one at a time, as does
the throughput that the load is compared with.
"""

from __future__ import annotations

import argparse
import base64
import io
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from unipixel import stickers
from unipixel.masks import iou_rles

SAME = 0.99
"""IoU above which a mask counts as the expected one; batches may differ in the last bit."""


@dataclass
class Tally:
    """What all clients have seen."""

    seconds: list[float] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


def requests(count: int, model: str) -> list[dict[str, Any]]:
    """Chat requests that differ in picture and question."""
    found = []
    for number in range(count):
        scene = stickers.scene(stickers.EVAL_SEED, number)
        packed = io.BytesIO()
        Image.fromarray(scene.frames[0]).save(packed, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()}"
        text = f"Please segment the {scene.objects[number % len(scene.objects)].thing.name} in this image."
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        found.append({"model": model, "max_tokens": 32, "messages": [{"role": "user", "content": parts}]})
    return found


def ask(http: httpx2.Client, request: dict[str, Any]) -> tuple[int, float, dict[str, Any]]:
    """Status, seconds, and the answer."""
    since = time.monotonic()
    reply = http.post("/v1/chat/completions", json=request)
    spent = time.monotonic() - since
    if reply.status_code == 429:
        time.sleep(float(reply.headers["Retry-After"]) / 10)
    return reply.status_code, spent, reply.json()["choices"][0]["message"] if reply.status_code == 200 else {}


def compare(given: dict[str, Any], expected: dict[str, Any]) -> str:
    """ "same", "inexact" or "wrong"."""
    ours, theirs = given["unipixel"]["objects"], expected["unipixel"]["objects"]
    if given["content"] != expected["content"] or len(ours) != len(theirs):
        return "wrong"
    pairs = [(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x["rles"], y["rles"], strict=True)]
    if all(a == b for a, b in pairs):
        return "same"
    alike = all(a is not None and b is not None and iou_rles(a, b) >= SAME for a, b in pairs if a != b)
    return "inexact" if alike else "wrong"


def client(url: str, seed: int, cases: list[Any], end: float, tally: Tally) -> None:
    """Ask at random until the time is over."""
    rng = np.random.default_rng(seed)
    with httpx2.Client(base_url=url, timeout=600) as http:
        while time.monotonic() < end:
            request, expected = cases[int(rng.integers(len(cases)))]
            status, spent, answer = ask(http, request)
            with tally.lock:
                tally.statuses[status] += 1
                if status == 200:
                    tally.seconds.append(spent)
                    tally.verdicts[compare(answer, expected)] += 1


def main() -> None:
    """Print the figures, and fail if an answer was wrong or a status neither 200 nor 429."""
    parser = argparse.ArgumentParser(description="Load a running server and check every answer.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--pictures", type=int, default=16)
    given = parser.parse_args()
    with httpx2.Client(base_url=given.url, timeout=600) as http:
        model = http.get("/health").json()["model"]
        asked = requests(given.pictures, model)
        since = time.monotonic()
        cases = [(request, ask(http, request)[2]) for request in asked]
        alone = len(cases) / (time.monotonic() - since)
    tally, end = Tally(), time.monotonic() + given.seconds
    since = time.monotonic()
    threads = [threading.Thread(target=client, args=(given.url, n, cases, end, tally)) for n in range(given.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - since
    p50, p95 = np.percentile(tally.seconds, [50, 95]) if tally.seconds else (float("nan"),) * 2
    print(f"{given.clients} clients, {took:.0f} s: {dict(tally.statuses)}, answers {dict(tally.verdicts)}")
    print(f"p50 {p50:.2f} s, p95 {p95:.2f} s; {len(tally.seconds) / took:.2f} answers/s, one at a time {alone:.2f}/s")
    if tally.verdicts["wrong"] or set(tally.statuses) - {200, 429}:
        raise SystemExit("some answers were wrong or refused")


if __name__ == "__main__":
    main()
