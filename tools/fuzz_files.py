"""Valid files edited at random and handed to the package, which must refuse them in one sentence or make use of them.

    python -m tools.fuzz_files sessions --count 500 --seed 0
    python -m tools.fuzz_files runs --count 100
    python -m tools.fuzz_files checkpoints --count 100

sessions: saved sessions, opened and then used in every way. runs: folders of training, evaluation and ablations, gone
on with. checkpoints: whole models and adapters, loaded and asked. Every case has a seed of its own, by which ``--only``
runs it again. Ends with 1 if anything went wrong inside, a refusal was not one sentence, or a case took too much time
or memory.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typer.testing import CliRunner

from tools.file_edits import edit_file, edit_session
from unipixel import ablation
from unipixel.bench.scene import draw_moving_discs
from unipixel.cli import app
from unipixel.engine.doctor import examine
from unipixel.engine.engine import Engine, load
from unipixel.engine.session import Session
from unipixel.errors import CheckpointError, MediaError, PromptError
from unipixel.sample import Box, Mask, Point

MAX_CPU_S = 60.0
"""Processor seconds that one case may take."""
MAX_GROWTH = 1 << 30
"""Bytes by which one case may raise the peak of the process."""
COMMON: list[str] = []
"""Options of every command."""
MAX_SPACE = 12 << 30
"""Bytes of address space that the process may have; a bare one of torch takes some 5 GB of it."""
MAX_MESSAGE = 2500


@dataclass
class Report:
    """What became of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    sentences: dict[str, str] = field(default_factory=dict)
    slowest_s: float = 0.0
    largest: int = 0

    def lines(self) -> Iterator[str]:
        """For people."""
        for outcome, count in sorted(self.outcomes.items()):
            yield f"{count:6d}  {outcome}"
        yield f"{len(self.failures)} failures of {sum(self.outcomes.values())} cases"
        yield f"the slowest took {self.slowest_s:.1f} processor seconds, the largest {self.largest >> 20} MiB more"
        yield from (f"FAILED {one}" for one in self.failures)


class InternalError(Exception):
    """Something that the package may not do with a file, whatever is in it."""


# saved sessions


def build_sessions(engine: Engine, folder: Path) -> list[Path]:
    """Sessions in which everything has happened, in order of what they hold."""
    frames, still = draw_moving_discs(4, (60, 80)), draw_moving_discs(1, (48, 64), 1)[0]
    mask = np.zeros((60, 80), dtype=bool)
    mask[5:30, 8:50] = True
    paths = []
    for number, media in enumerate((frames, frames, still)):
        with engine.open(list(media) if media.ndim == 4 else media) as session:
            size = session.media.size_hw
            session.ask("What is this?", prompts=[Point(40, 30), Box(5, 5, 40, 40)], force=True, max_new_tokens=6)
            if number == 0:
                session.segment(Mask(mask), label="a blob")
                session.correct(1, [Point(50, 40, frame=2), Point(5, 5, frame=2, positive=False)])
                session.correct(2, Mask(mask, frame=1))
                session.ask("What is [1]?", max_new_tokens=4)
                session.remove(2)
            elif number == 2:
                session.rename(1, "renamed")
                session.correct(1, Box(1, 1, size[1] / 2, size[0] / 2))
            paths.append(folder / f"{number}.session")
            session.save(paths[-1])
    return paths


def use_session(session: Session, path: Path) -> None:
    """Everything that can be done with an open session; what it refuses, it must refuse as a prompt."""

    def attempt(work: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        with suppress(PromptError):
            work(*arguments, **named)

    last = session.num_frames - 1
    for one in session.objects.values():
        json.dumps(one.to_json(), allow_nan=False)
    attempt(session.ask, "What is this?", max_new_tokens=3)
    ids = list(session.objects)
    for number in ids[:2]:
        attempt(session.ask, f"Where is [{number}]?", max_new_tokens=2)
        attempt(session.correct, number, Point(3, 3, frame=last))
        attempt(session.remove_prompt, number, -1)
        attempt(session.remove_prompt, number, 0)
        attempt(session.rename, number, "other")
    attempt(session.segment, Box(2, 2, 20, 20), force="always")
    attempt(session.undo)
    attempt(session.redo)
    attempt(session.undo)
    attempt(session.track)
    attempt(session.track, start=last)
    answer = session.ask("Tell.", prompts=[Point(9, 9)], max_new_tokens=2, force=True)
    json.dumps(answer.to_json(), allow_nan=False)
    answer.to_coco()
    answer.draw(0)
    session.save(path)


def check_session(engine: Engine, sources: list[Path], folder: Path, rng: random.Random) -> str:
    """One edited session; returns what became of it."""
    path, again = folder / "edited.session", folder / "again.session"
    edit_session(rng.choice(sources), path, rng)
    try:
        session = engine.open_session(path)
    except (MediaError, CheckpointError) as error:
        return f"refused: {check_sentence(str(error), path)}"
    with session:
        use_session(session, again)
    with engine.open_session(again) as restored:
        restored.ask("What is this?", max_new_tokens=1)
    return "accepted"


def check_sentence(message: str, *paths: Path) -> str:
    """The message of a refusal without its paths; what is no one short sentence for people is an error."""
    if "\n" in message or len(message) > MAX_MESSAGE or "Traceback" in message:
        raise InternalError(f"the refusal is no sentence: {message[:2000]!r}")
    for path in paths:
        message = message.replace(str(path), "FILE")
    return message


# checkpoints


def build_checkpoints(folder: Path) -> list[Path]:
    """A whole model, one in shards, and an adapter over the first."""
    from dataclasses import replace

    from unipixel.model.weights import load_model, save_model
    from unipixel.processing import Processor
    from unipixel.train.recipe import Lora, Start
    from unipixel.train.recipes import RECIPES
    from unipixel.train.run import run

    whole = build_checkpoint(folder / "whole")
    save_model(load_model(whole), folder / "shards", max_shard_size="300KB")
    Processor.from_folder(whole).save(folder / "shards")
    recipe = replace(
        RECIPES["debug"](),
        start=Start(model=str(whole)),
        steps=1,
        evaluation=replace(RECIPES["debug"]().evaluation, samples=0),
        trainable=("seg_head.",),
        lora=Lora(rank=2, alpha=4.0),
        save="adapter",
    )
    run(recipe, folder / "training", workers=0, report=("none",))
    return [whole, folder / "shards", folder / "training" / "final"]


def check_checkpoint(sources: list[Path], folder: Path, rng: random.Random) -> str:
    """One edited checkpoint; returns what became of it."""
    target, touched, again = folder / "edited", folder / "touched", folder / "again.session"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(rng.choice(sources), target)
    names = sorted(target.iterdir())
    weights = [one for one in names if one.suffix in (".safetensors", ".bin")]
    settings = [one for one in names if one.name in ("config.json", "sam2_config.json", "preprocessor_config.json")]
    edit_file(rng.choice(rng.choice([names, weights, settings, settings])), rng, touched)
    try:
        engine = load(target, device="cpu")
    except CheckpointError as error:
        with suppress(CheckpointError):
            examine(target)
        return f"refused: {check_sentence(str(error), target).partition(' (`unipixel doctor')[0]}"
    finally:
        if touched.exists():
            raise InternalError("code in a file was run")
    frames = list(draw_moving_discs(3, (60, 80)))
    try:
        with engine.open(frames) as session:
            session.segment([Point(40, 30), Box(5, 5, 40, 40)], force=True)
            use_session(session, again)
    except (MediaError, PromptError) as error:
        return f"accepted, unfit for the clip: {check_sentence(str(error), target)}"
    return "accepted"


# folders of training, evaluation and ablations

TRAINING = ["train", "debug", "--workers", "0", "--report", "none", "--set", "evaluation.samples=0", "--set", "turns=1"]
VARIANTS = {
    "whole": [],
    "muon": ["--set", "muon=2"],
    "adapter": ["--set", "save=adapter", "--set", "lora.rank=2", "--set", "trainable=seg_head."],
}
EVALUATED = ("refcoco/testA", "mevis/valid_u", "mevis/valid", "reason_seg/val", "refcoco/val")
FIGURES = {"refer": 0.5, "prompt": 0.25}


def invoke(*arguments: object) -> tuple[int, str]:
    """Exit code of a command, and the last line that it wrote on stderr."""
    result = CliRunner().invoke(app, [*(str(one) for one in arguments), *COMMON])
    lines = result.stderr.strip().splitlines()
    return result.exit_code, lines[-1] if lines else ""


def judge_command(code: int, line: str, *paths: Path) -> str:
    """What became of a command: it did its work, or refused it in one sentence."""
    if code == 0:
        return "accepted"
    if code != 2 or not line.startswith("unipixel: "):
        raise InternalError(f"the command ended with {code}: {line[:600]!r}")
    return f"refused: {check_sentence(line.removeprefix('unipixel: '), *paths)}"


def build_runs(folder: Path) -> Path:
    """A folder with runs of two steps, evaluations on small data, and an ablation's figures."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from miniatures import write_miniatures

    model = build_checkpoint(folder / "model")
    for name, changes in VARIANTS.items():
        start = ["--model", model] if name == "adapter" else []
        run = folder / "training" / name
        code, line = invoke(*TRAINING, *changes, *start, "--set", "steps=2", "--set", "save_steps=1", "-o", run)
        if code:
            raise RuntimeError(f"the run {name} failed: {line}")
        shutil.rmtree(run / "final")
        shutil.rmtree(run / "checkpoint-1")
    write_miniatures(folder / "data")
    for name in EVALUATED:
        out = folder / "eval" / name.replace("/", "-")
        code, line = invoke("eval", name, "--model", "perfect", "--data-root", folder, "-o", out, "--limit", 4)
        if code:
            raise RuntimeError(f"the evaluation {name} failed: {line}")
    ablation._run_sticker_world = lambda *_: dict(FIGURES)  # what is edited are the figures, not the training
    run_tokens(folder / "ablation")
    for name in VARIANTS:  # what is not edited must be gone on with, or nothing that is refused says anything
        shutil.copytree(folder / "training" / name, folder / "edited")
        outcome = resume_training(folder, name, folder / "edited")
        if outcome != "accepted":
            raise RuntimeError(f"the run {name} cannot be gone on with: {outcome}")
        shutil.rmtree(folder / "edited")
    return folder


def resume_training(source: Path, name: str, run: Path) -> str:
    """Go on with a run for one more step; returns what became of it."""
    start = ["--model", source / "model"] if name == "adapter" else []
    changes = [*VARIANTS[name], *start, "--set", "steps=3", "--set", "save_steps=1"]
    outcome = judge_command(*invoke(*TRAINING, *changes, "-o", run), run)
    if outcome == "accepted":
        load(run / "final", device="cpu")
    return outcome


def run_tokens(out: Path) -> tuple[int, str]:
    """The smallest ablation."""
    return invoke("train", "ablation", "tokens", "-o", out, "--set", "steps=1", "--count", "1")


def check_run(source: Path, folder: Path, rng: random.Random) -> str:
    """One edited folder of a run; returns what became of it."""
    target, touched = folder / "edited", folder / "touched"
    shutil.rmtree(target, ignore_errors=True)
    kind = rng.choice(["training"] * 5 + ["eval"] * 3 + ["ablation"])
    if kind == "ablation":
        shutil.copytree(source / kind, target)
        edit_file(target / "tokens.json", rng, touched)
        return judge_command(*run_tokens(target), target)
    name = rng.choice(sorted(path.name for path in (source / kind).iterdir()))
    shutil.copytree(source / kind / name, target)
    if kind == "eval":
        (path,) = target.glob("*/*/*.jsonl")
        edit_file(path, rng, touched)
        again = ["--data-root", source, "-o", target]
        commands: list[list[Any]] = [
            ["report", target, "-o", target],
            ["report", target, "--rescore", *again],
            ["eval", name.replace("-", "/"), "--model", "perfect", "--limit", "4", *again],
        ]
        return judge_command(*invoke(*rng.choice(commands)), target)
    names = [path for path in target.rglob("*") if path.is_file()]
    states = [path for path in names if path.suffix in (".pt", ".pth", ".bin") or path.name == "trainer_state.json"]
    records = [path for path in names if path.name in ("recipe.json", "log.jsonl")]
    edit_file(rng.choice(rng.choice([names, states, states, records])), rng, touched)
    outcome = resume_training(source, name, target)
    if touched.exists():
        raise InternalError("code in a file was run")
    return outcome


# cases


def run_cases(count: int, seed: int, only: int | None, check: Callable[[random.Random], str], report: Report) -> None:
    """Run the cases and note what became of each."""
    for number in range(count) if only is None else [only]:
        rng = random.Random(f"{seed}/{number}")
        peak, began = read_peak(), time.process_time()
        try:
            outcome = check(rng)
        except Exception as error:  # whatever it is
            outcome = f"internal: {type(error).__name__}"
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            report.failures.append(f"case {number}: {type(error).__name__} at {place}: {str(error)[:300]}")
            print(report.failures[-1], file=sys.stderr, flush=True)
            if only is not None:
                traceback.print_exc()
        if only is not None:
            print(outcome)
        seconds, growth = time.process_time() - began, read_peak() - peak
        report.slowest_s, report.largest = max(report.slowest_s, seconds), max(report.largest, growth)
        if seconds > MAX_CPU_S or growth > MAX_GROWTH:
            report.failures.append(f"case {number}: took {seconds:.1f} processor seconds and {growth >> 20} MiB")
            print(report.failures[-1], file=sys.stderr, flush=True)
        kind, _, sentence = outcome.partition(": ")
        report.outcomes[kind] += 1
        if kind == "refused":
            report.sentences.setdefault(sentence.rpartition("(")[2][:40], sentence)
        if (number + 1) % 25 == 0:
            print(f"{number + 1} of {count}: {dict(report.outcomes)}", file=sys.stderr, flush=True)


def read_peak() -> int:
    """Most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def build_checkpoint(folder: Path) -> Path:
    """A checkpoint folder of the smallest model with every part, its weights random."""
    from unipixel.train.checkpoints import save_whole
    from unipixel.train.recipes import RECIPES
    from unipixel.train.setup import prepare_training

    setup = prepare_training(RECIPES["debug"]())
    save_whole(setup.model.config, setup.model.state_dict(), folder, None)
    setup.processor.save(folder)
    return folder


def main() -> int:
    """Run the cases of one kind and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["sessions", "runs", "checkpoints"])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this case alone, with its trace")
    parser.add_argument("--sentences", action="store_true", help="print an example of each kind of refusal")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # what would take more ends as an error, not the machine
    resource.setrlimit(resource.RLIMIT_AS, (MAX_SPACE, MAX_SPACE))
    warnings.simplefilter("ignore")
    if given.only is not None:
        COMMON.append("-v")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="unipixel-fuzz-") as name:
        folder = Path(name)
        if given.kind == "sessions":
            engine = load(build_checkpoint(folder / "model"), device="cpu")
            (folder / "sessions").mkdir()
            sources = build_sessions(engine, folder / "sessions")

            def check(rng: random.Random) -> str:
                return check_session(engine, sources, folder, rng)

        elif given.kind == "runs":
            source = build_runs(folder)

            def check(rng: random.Random) -> str:
                return check_run(source, folder, rng)

        else:
            sources = build_checkpoints(folder)

            def check(rng: random.Random) -> str:
                return check_checkpoint(sources, folder, rng)

        run_cases(given.count, given.seed, given.only, check, report)
    if given.sentences:
        for sentence in sorted(report.sentences.values()):
            print(f"- {sentence}")
    print("\n".join(report.lines()))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
