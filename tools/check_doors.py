"""Whether what is exported answers as the engine does, in an environment where only the package is installed.

    python -m venv clean && clean/bin/pip install . && cd clean && bin/python ../tools/check_doors.py -n 100

nano is exported by the command; `AutoModel` and `AutoProcessor` load it in a process of their own, with an empty cache
and without a network; each of the questions about held-out pictures and clips of the built-in world is asked both ways,
and tokens and masks are compared one by one. With ``--lmms-eval`` the plugin is also run by lmms-eval, if that is
installed, on a task of the same questions, and its replies are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unipixel.draw import write_mp4, write_png
from unipixel.engine.engine import load
from unipixel.engine.pretrained import export_checkpoint
from unipixel.stickers import EVAL_SEED, generate_scene_with_turns

SEED = EVAL_SEED + 90
FRAMES = 4
TASK = """
task: doors
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function visuals.find_visuals
doc_to_text: "{{{{text}}}}"
doc_to_target: "expected"
generation_kwargs: {{max_new_tokens: 24, do_sample: false}}
process_results: !function visuals.compare
metric_list: [{{metric: same, aggregation: mean, higher_is_better: true}}]
metadata: [{{version: 1.0}}]
"""
VISUALS = """
from PIL import Image

def find_visuals(row):
    return [row["media"] if row["media"].endswith(".mp4") else Image.open(row["media"])]

def compare(row, results):
    return {"same": float(results[0] == row["expected"])}
"""


def write_questions(folder: Path, count: int) -> Iterator[tuple[str, str]]:
    """Path of a picture or clip and a question without prompts about it; every fifth is a clip."""
    made, index = 0, 0
    while made < count:
        video = made % 5 == 4
        scene, turns = generate_scene_with_turns(SEED, index, video=video)
        index += 1
        plain = [turn for turn in turns if not (turn.references or turn.regions)]
        if not plain:
            continue
        path = folder / f"{made:04d}{'.mp4' if video else '.png'}"
        if video:
            write_mp4(list(scene.frames[:FRAMES]), path)
        else:
            write_png(scene.frames[0], path)
        yield str(path), plain[0].question
        made += 1


def compare_answers(exported: Path, questions: list[tuple[str, str]]) -> None:
    """Ask everything through the Auto classes and through the engine; print how many answers are the same."""
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(exported, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(exported, trust_remote_code=True)
    engine = load("nano", device="cpu")
    same_tokens = same_masks = masks = 0
    for path, text in questions:
        expected = engine.ask(path, text, max_new_tokens=24)
        inputs = processor(text=text, **{"videos" if path.endswith(".mp4") else "images": path})
        output = model.generate(**inputs, max_new_tokens=24, return_dict_in_generate=True)
        new = output["sequences"][0, inputs["input_ids"].shape[1] :]
        same_tokens += tuple(new.tolist()) == expected.tokens
        found = processor.post_process_masks(output["mask_logits"], inputs["original_sizes"])[0]
        masks += len(expected.objects)
        pairs = zip(found, expected.objects, strict=True) if len(found) == len(expected.objects) else ()
        same_masks += sum(bool(np.array_equal(mask.numpy(), one.masks)) for mask, one in pairs)
    print(f"{len(questions)} questions: {same_tokens} with the same tokens; of {masks} masks {same_masks} the same")
    if same_tokens < len(questions) or same_masks < masks:
        sys.exit(1)


def run_lmms_eval(folder: Path, questions: list[tuple[str, str]], environment: dict[str, str]) -> float:
    """The share of the questions to which the plugin, run by lmms-eval, replies as the engine does."""
    engine = load("nano", device="cpu")
    expected = [engine.ask(path, text, max_new_tokens=24, each=False).text.strip() for path, text in questions]
    rows = [
        {"media": path, "text": text, "expected": words}
        for (path, text), words in zip(questions, expected, strict=True)
    ]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "tasks").mkdir()
    (folder / "tasks" / "doors.yaml").write_text(TASK.format(questions=folder / "questions.jsonl"))
    (folder / "tasks" / "visuals.py").write_text(VISUALS)
    options = ["--model", "unipixel", "--model_args", "pretrained=nano,device=cpu", "--tasks", "doors"]
    places = ["--include_path", str(folder / "tasks"), "--output_path", str(folder / "report"), "--batch_size", "4"]
    subprocess.run([sys.executable, "-m", "lmms_eval", *options, *places], env=environment, check=True)
    (report,) = (folder / "report").rglob("*results.json")
    return float(json.loads(report.read_text())["results"]["doors"]["same,none"])


def main() -> None:
    """Export, ask, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=100, help="questions")
    parser.add_argument("--lmms-eval", action="store_true", help="also run the plugin")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        questions = [tuple(one) for one in json.loads((options.ask / "asked.json").read_text())]
        compare_answers(options.ask / "exported", questions)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = list(write_questions(folder, options.n))
        (folder / "asked.json").write_text(json.dumps(asked))
        export_checkpoint("nano", folder / "exported")
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
        environment = {**os.environ, **offline}
        subprocess.run([sys.executable, __file__, "--ask", str(folder)], env=environment, check=True)
        if options.lmms_eval:
            share = run_lmms_eval(folder, asked, environment)
            print(f"lmms-eval: {share:.1%} of {len(asked)} replies the same")
            if share < 1:
                sys.exit(1)


if __name__ == "__main__":
    main()
