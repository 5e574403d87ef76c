"""Every ablation of the paper on a tiny model: its conditions differ as they say, and one table comes out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from unipixel import ablation
from unipixel.ablation import (
    ABLATIONS,
    PIXELQA_CHOICES,
    PIXELQA_MASKS,
    AblationPlan,
    Condition,
    build_sticker_recipes,
    prepare_condition,
    run_ablation,
)
from unipixel.cli import app
from unipixel.engine.engine import Engine, load
from unipixel.engine.generation import Reply
from unipixel.engine.turn import answer_request
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import load_model
from unipixel.processing import Processor
from unipixel.sample import Point
from unipixel.stickers import generate_turns, generate_video
from unipixel.train.recipe import MixtureRecipe, Recipe, Start
from unipixel.train.recipes import RECIPES
from unipixel.train.run import check_recipe, train
from unipixel.train.setup import prepare_training
from unipixel.train.sticker_data import StickerDataset, apply_recall

FEW = ("steps=2", "batch_size=2", "turns=2", "video_turns=2", "log_steps=1", "muon=0", "bf16=false")


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["train", "ablation", *map(str, arguments)])


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all ablations, which share what they have in common."""
    return tmp_path_factory.mktemp("ablations")


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_of_the_built_in_world_makes_one_table(name: str, tiny: Path, shared_out: Path) -> None:
    settings = [word for one in FEW for word in ("--set", one)]
    done = invoke(name, "-o", shared_out, "--model", tiny, "-n", 2, "--workers", 0, *settings)
    assert done.exit_code == 0, done.output
    conditions = ABLATIONS[name]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(conditions)
    assert (shared_out / f"{name}.md").read_text().strip() == done.stdout.strip()
    held = json.loads((shared_out / f"{name}.json").read_text())
    assert list(held["results"]) == list(conditions)
    for one, condition in conditions.items():
        figures = held["results"][one]["0"]["figures"]
        assert figures and all(0 <= value <= 1 for value in figures.values())
        assert any(figure.endswith("prompt") for figure in figures) is condition.segments
        assert any(figure.endswith("name") for figure in figures) is condition.answers


def test_what_is_done_is_not_done_again_and_what_conditions_share_is_trained_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Path] = []

    def counting(begun: Any, recipe: Recipe, data: Any, folder: Path, **options: Any) -> Path:
        trained.append(folder)
        if len(trained) == 2 and not folder.exists():  # the second one is cut off
            raise KeyboardInterrupt
        return train(begun, recipe, data, folder, **options)

    def weighed(model: UniPixel, *_: Any) -> dict[str, float]:
        return {"name": float(sum(value.double().abs().sum() for value in model.state_dict().values()))}

    monkeypatch.setattr(ablation, "train", counting)
    monkeypatch.setattr(ablation, "measure_scenes", weighed)
    out = tmp_path / "out"
    plan = AblationPlan(name="propagation", out=out, model=str(tiny), settings=FEW, count=2, workers=0)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(plan)
    assert list(json.loads((out / "propagation.json").read_text())["results"]) == ["frame by frame"]
    first = run_ablation(plan)
    assert len(trained) == 3 and trained[1] == trained[2] != trained[0]
    assert run_ablation(plan) == first and len(trained) == 3
    run_ablation(replace(plan, name="time"))  # its "with" is what propagates
    assert len(trained) == 4
    moved = shutil.copytree(out, tmp_path / "moved")
    (moved / "propagation.json").unlink()
    assert run_ablation(replace(plan, out=moved)) == first and len(trained) == 4
    two = run_ablation(replace(plan, seeds=(0, 1)))
    assert len(trained) == 6 and "±" in two and "propagated (2)" in two
    assert run_ablation(replace(plan, settings=(*FEW, "seed=7"))) != first and len(trained) == 8


def test_figures_on_other_data_are_not_mixed(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "time.json").write_text(json.dumps({"ablation": "time", "is_real": True, "results": {}}))
    assert "holds figures on real data" in invoke("time", "-o", tmp_path, "--model", tiny).stderr
    kind = {"ablation": "time", "is_real": False}
    for value in (
        [],
        {**kind, "results": []},
        {**kind, "results": {"with": 3}},
        {**kind, "results": {"with": {"0": {"key": "x"}}}},
        {**kind, "results": {"with": {"0": {"key": "x", "figures": {"refer": "high"}}}}},
        {**kind, "results": {"with": {"0": {"key": "x", "figures": {"refer": float("nan")}}}}},
        {**kind, "is_real": 0, "results": {}},
    ):
        (tmp_path / "time.json").write_text(json.dumps(value))
        done = invoke("time", "-o", tmp_path, "--model", tiny)
        assert done.exit_code == 2 and "no file of an ablation" in done.stderr, value


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "which ablation? There are stages, unify"),
        (("nonsense", "-o", "x"), "there is no ablation 'nonsense'"),
        (("time",), "add -o OUT"),
        (("time", "-o", "x", "--seeds", "a"), "--seeds is 'a'"),
        (("time", "-o", "x", "-n", "0"), "the count is 0"),
        (("time", "-o", "x", "--set", "nonsense=1"), "nonsense is no setting"),
        (("time", "-o", "x", "--skip-absent"), "--skip-absent is for real data"),
        (("time", "-o", "x", "--report", "none"), "an ablation chooses its data"),
        (("time", "-o", "x", "--data-root", "nowhere"), "nowhere"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(
    arguments: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == 2 and told in done.stderr, done.output
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("done"))


def test_second_names_and_seeds_are_for_ablations_alone(tmp_path: Path) -> None:
    for more in (("time",), ("--seeds", "1"), ("-n", "3")):
        done = CliRunner().invoke(app, ["train", "debug", "-o", str(tmp_path), *more])
        assert done.exit_code == 2 and "are for `unipixel train ablation NAME`" in done.stderr


def varied(tiny: Path, **fields: Any) -> Recipe:
    return replace(RECIPES["debug"](), start=Start(model=str(tiny)), **fields)


def test_a_recipe_makes_the_model_of_its_condition(tiny: Path, tmp_path: Path) -> None:
    plain = prepare_training(varied(tiny))
    four = prepare_training(varied(tiny, hidden_tokens=4))
    assert four.model.config.hidden_tokens == 4 and {"seg_head.3.weight"} <= four.changed
    state = torch.randn(3, four.model.config.language.hidden_size)
    assert four.model.compute_seg_tokens(state).shape == (3, 4, four.model.config.sam.hidden_size)
    assert not plain.changed and plain.model.config.pixel.propagate
    timeless = prepare_training(varied(tiny, time_code=False))
    points = [torch.tensor([[3.0, 4.0]])] * 2, [torch.tensor([1])] * 2, torch.tensor([0, 3])
    for begun, is_same in ((timeless, True), (plain, False)):
        first, later = begun.model.encode_points(*points, 4)
        assert torch.allclose(first, later) is is_same
    check_recipe(varied(tiny))
    with pytest.raises(ValueError, match="hidden_tokens is -1"):
        prepare_training(varied(tiny, hidden_tokens=-1))
    with pytest.raises(ValueError, match="which photos do not know"):
        check_recipe(varied(tiny, recall="turn", photo_share=0.5))
    still = prepare_training(varied(tiny, propagate=False, recall="frame"))
    assert UniPixel(still.model.config).config.pixel == still.model.config.pixel
    from unipixel.model.weights import save_model

    save_model(still.model, tmp_path)
    kept = load_model(tmp_path).config.pixel
    assert not kept.propagate and kept.recall == "frame"


def test_conditions_go_on_with_what_they_do_not_compare(tiny: Path) -> None:
    (recipe,) = build_sticker_recipes(ABLATIONS["tokens"]["2"], False, 0, FEW).values()
    start = load_model(tiny).state_dict()

    def list_fresh(staged: bool) -> set[str]:
        model = prepare_condition(recipe, str(tiny), 5, staged).model
        different = [name for name, value in model.state_dict().items() if not torch.equal(value, start[name])]
        return {name.partition(".")[0] for name in different}

    assert list_fresh(staged=False) == {"seg_head"}
    assert list_fresh(staged=True) == {"seg_head", "prompt_encoder"}


def test_a_model_that_does_not_propagate_makes_every_mask_by_itself(tiny: Path) -> None:
    engine = load(tiny, device="cpu")
    frames = np.random.default_rng(0).integers(0, 255, (3, 84, 84, 3), dtype=np.uint8)
    queries = torch.randn(1, engine.model.config.hidden_tokens, engine.model.config.sam.hidden_size)
    clip = torch.cat([engine.processor.prepare_sam_frames(frame[None]) for frame in frames])

    def trained() -> list[torch.Tensor]:
        with torch.no_grad():
            (steps,) = engine.model.segment([queries], [clip])
        assert steps is not None
        return [step.low_res_masks for step in steps]

    with torch.no_grad():
        alone = [engine.model.segment([queries], [frame[None]])[0][0].low_res_masks for frame in clip]
    assert not torch.allclose(trained()[2], alone[2], atol=1e-3)
    engine.model.config.pixel = replace(engine.model.config.pixel, propagate=False)
    for step, expected in zip(trained(), alone, strict=True):
        torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-4)
    # the same in a session
    clicked = Point(20, 20)
    with engine.open(frames) as session:
        (known,) = session.segment(clicked, force="always")
        for t in range(3):
            with engine.open(frames[t]) as one:
                features = one._space.features.get(0)
                assert known.queries is not None
                segmenter = engine.model.segmenter
                decoded = segmenter.decode(segmenter.add_no_memory(features), features, known.queries[None])
                from unipixel.engine.tracking import to_rles

                assert to_rles(decoded.low_res_masks, (84, 84))[0] == known.track.rles[t]


def asks(engine: Engine, frames: np.ndarray) -> list[Reply]:
    """What a question about a point asks of the language model."""
    with engine.open(frames) as session:
        request = session.prepare("What is this?", prompts=Point(40, 30), force="always")
        found = []
        for item in answer_request(session._space, request):
            if isinstance(item, Reply):
                found.append(item)
                session._space.dialogue.start(item)
        return found


def test_a_question_knows_of_objects_in_the_way_of_its_model(tiny: Path) -> None:
    engine = load(tiny, device="cpu")
    frames = np.random.default_rng(0).integers(0, 255, (4, 84, 84, 3), dtype=np.uint8)
    found: dict[str, list[Reply]] = {}
    for recall in ("memory", "frame", "turn", "pointing"):
        engine.model.config.pixel = replace(engine.model.config.pixel, recall=recall)
        found[recall] = asks(engine, frames)
        answers = engine.ask_batch([frames, frames[:2]], "What is this?", prompts=[[Point(40, 30)]] * 2, force=True)
        with engine.open(frames) as session:
            assert session.ask("What is this?", prompts=Point(40, 30), force=True).raw_text == answers[0].raw_text
    if not found["memory"][-1].turn.regions:
        pytest.skip("the tiny model segments nothing here")
    assert found["memory"][-1].turn.question == found["frame"][-1].turn.question == "What is [1]?"
    whole, one = (found[recall][-1].objects[1] for recall in ("memory", "frame"))
    assert [rle is not None for rle in one.rles] == [True, False, False, False]
    assert one.rles[0] == whole.rles[0]
    pointing = found["pointing"][-1].turn
    assert pointing.question == "What is [1] <|ref|>?" and len(pointing.references) == 1 and not pointing.regions
    before, question = found["turn"][-2:]
    assert "[1] <|ref|>" in before.turn.question and before.answer == "[1] <|seg|>" and not before.is_separate
    assert question.turn.question == "What is [1]?" and not question.turn.regions and not question.turn.references


def test_sticker_questions_are_put_in_the_way_of_the_condition(tiny: Path) -> None:
    rng = np.random.default_rng(0)
    world = generate_video(5, 0, ablation.WORLD)
    made = generate_turns(world, rng, 6, {"name_mem": 1.0, "choice": 1.0, "refer": 1.0})
    sample = world.to_sample(made)
    assert any(turn.regions for turn in made)
    prompts = {item.id: Point(3.0, 3.0, frame=1) for item in world.objects}
    asked = {number for turn in made for number in turn.regions}
    assert apply_recall(sample, prompts, "memory") is sample
    for turn, before in zip(apply_recall(sample, prompts, "pointing").turns, made, strict=True):
        assert not turn.regions and turn.answer == before.answer and turn.targets == before.targets
        assert turn.question.replace(" <|ref|>", "") == before.question.replace(" <|ref|>", "")
        assert turn.question.count("<|ref|>") == len(turn.references)
    talk = apply_recall(sample, prompts, "turn").turns
    shown = [number for turn in talk for number in turn.targets if turn.question.startswith("Please segment [")]
    assert sorted(shown) == sorted(asked) and not any(turn.regions for turn in talk)
    assert [turn for turn in talk if not turn.question.startswith("Please segment [")] == [
        replace(turn, regions=()) for turn in made
    ]
    framed = apply_recall(sample, prompts, "frame")
    for number in asked:
        if sample.objects[number].rles[1] is not None:
            assert framed.objects[number].visible.tolist() == [False, True, False, False]
    processor = Processor.from_folder(tiny)
    for recall in ("frame", "turn", "pointing"):
        recipe = replace(
            ablation.build_sticker_recipes(Condition(recall=recall), False, 0, FEW)["joint"], mix={"name_mem": 1.0}
        )
        out = StickerDataset(processor, recipe)[0]
        text = processor.tokenizer.decode(out["input_ids"])
        assert ("<|mem|>" in text) is (recall == "frame")
        assert ("<|ref|>" in text) is (recall != "frame")
        assert ("turn_ids" in out) is (recall != "turn")  # one conversation


def test_stages_are_trained_one_after_the_other(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[tuple[str, dict[str, torch.Tensor]]] = []

    def noting(begun: Any, recipe: Recipe, data: Any, folder: Path, **options: Any) -> Path:
        state = {name: value.clone() for name, value in begun.model.state_dict().items()}
        began.append((folder.name.partition("-")[0], state))
        return train(begun, recipe, data, folder, **options)

    monkeypatch.setattr(ablation, "train", noting)
    few = tuple("steps=6" if one.startswith("steps") else one for one in FEW)
    condition = ABLATIONS["stages"]["stages 1, 2, 3"]
    plan = AblationPlan(name="stages", out=tmp_path, model=str(tiny), settings=few, count=1, workers=0)
    ablation._run_sticker_world(plan, condition, 0)
    assert [stage for stage, _ in began] == ["refer", "segment", "joint"]
    (_, first), (_, second), (_, third) = began

    def moved(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
        return {name.split(".")[0] for name in a if not torch.equal(a[name], b[name])}

    assert moved(first, second) == {"prompt_encoder"} and moved(second, third) == {"seg_head"}


def test_on_real_data_a_condition_learns_from_what_its_name_says() -> None:
    def made(**fields: Any) -> dict[str, MixtureRecipe]:
        return ablation.build_mixture_recipes(Condition(**fields), "", 0, ())

    whole = made()
    assert list(whole) == ["refer", "segment", "joint"]
    assert whole["joint"].sources == RECIPES["joint"]().sources
    about = [s for s in whole["joint"].sources if s.dataset.startswith(ablation.ABOUT_OBJECTS) and s.form != "memory"]
    refers = made(segments=False, recall="pointing")
    assert list(refers) == ["refer", "joint"]
    assert {s.dataset for s in refers["joint"].sources if not s.dataset.startswith(ablation.TALK)} == {
        s.dataset for s in about
    }
    assert not [s for s in refers["joint"].sources if s.form in ("regions", "memory") and s in about]
    segments = made(answers=False)
    assert list(segments) == ["segment", "joint"]
    assert not [s for s in segments["joint"].sources if s in about]
    assert [s.form for s in segments["joint"].sources].count("memory") == 2
    framed = made(recall="frame")["joint"].sources
    assert all(
        s.one_frame_share == 1 for s in framed if s.dataset in {x.dataset for x in about} and s.form == "regions"
    )
    assert all(recipe.hidden_tokens == 8 for recipe in made(hidden_tokens=8).values())
    assert made(stages=("joint",)).keys() == {"joint"}
    assert ablation.select_figures(Condition(answers=False), [PIXELQA_MASKS, PIXELQA_CHOICES]) == [PIXELQA_MASKS]
    assert ablation.start_from_stages(whole["joint"], {"refer": Path("a"), "segment": Path("b")}).start.stages == (
        "a",
        "b",
    )


def test_an_ablation_of_real_data_trains_evaluates_and_has_the_papers_figures_beside(
    tiny: Path, stage_data: Path, miniatures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    (data / "videorefer").mkdir(parents=True)
    for place in stage_data.iterdir():
        if place.name != "videorefer":
            (data / place.name).symlink_to(place)
    (data / "videorefer/VideoRefer-700K").symlink_to(stage_data / "videorefer/VideoRefer-700K")
    (data / "videorefer/VideoRefer-Bench").symlink_to(miniatures / "videorefer/VideoRefer-Bench")
    monkeypatch.setattr(ablation, "select_sources", lambda mixture, condition: tuple(mixture)[:1])
    settings = ("steps=1", "batch_size=1", "num_frames=2", "evaluation.samples=0", "bf16=false")
    plan = AblationPlan(
        name="time", out=tmp_path / "out", model=str(tiny), data_root=data, settings=settings, count=1, workers=0
    )
    rows = run_ablation(plan).splitlines()
    assert rows[0] == "| Code of time of prompts | PixelQA J&F | paper, 3B | PixelQA accuracy | paper, 3B |"
    assert rows[2].startswith("| without (1) | ") and "| 44.3 |" in rows[2]
    assert "| 49.0 |" in rows[3] and rows[3].endswith("| 68.5 |")
    finals = sorted(path.parent.name for path in (tmp_path / "out").glob("runs/*/done"))
    assert [name.partition("-")[0] for name in finals] == ["joint"] * 2 + ["refer"] * 2 + ["segment"] * 2
    for name in finals:
        if name.startswith("joint"):
            assert list((tmp_path / "out/runs" / name / "eval").rglob("*.jsonl"))
    assert run_ablation(plan).splitlines() == rows
