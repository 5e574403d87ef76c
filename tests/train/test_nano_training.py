"""The training loop of nano: recipes run and save, samples depend on their number alone, resting parts rest."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tools.deepen_encoder import deepen
from tools.fit_region_pool import fit as fit_region_pool
from unipixel.errors import CheckpointWarning
from unipixel.masks import MaskTrack, encode_rle, save_davis_png
from unipixel.media import Media
from unipixel.model.presets import TINY_SAM, build_debug_config, build_nano_config, initialise
from unipixel.model.unipixel import UniPixel
from unipixel.model.vision import VisionFeatures
from unipixel.model.weights import load_model, resolve_checkpoint, save_model
from unipixel.processing import Processor, build_tokenizer
from unipixel.sample import Query, Sample, Turn
from unipixel.stickers import THINGS, SceneSettings, generate_scene, generate_video
from unipixel.stickers.choice_tasks import ask_written_choice
from unipixel.stickers.facts import Facts
from unipixel.train.checkpoints import copy_rows_by_token, copy_weights
from unipixel.train.losses import (
    TrainingStep,
    draw_correction_clicks,
    encode_prompts,
    frame_loss,
    pointing_loss,
    region_word_loss,
    word_loss,
)
from unipixel.train.nano_recipes import NANO_RECIPES
from unipixel.train.recipe import LossWeights
from unipixel.train.run import enable_checkpointing, train
from unipixel.train.setup import TrainingSetup, prepare_training
from unipixel.train.sticker_data import StickerDataset, label_cells, restyle

QUIET: dict[str, Any] = {"workers": 0, "report": ("none",)}


@pytest.fixture(scope="module")
def processor() -> Processor:
    return prepare_training(NANO_RECIPES["nano_prompt"]()).processor


def fresh(processor: Processor, seed: int = 0) -> UniPixel:
    model = UniPixel(build_nano_config(len(processor.tokenizer), processor.chat.ids))
    initialise(model, torch.Generator().manual_seed(seed))
    return model


def test_nano_has_between_8_and_15_million_parameters(processor: Processor) -> None:
    count = sum(p.numel() for p in fresh(processor).parameters())
    assert 8e6 < count < 15e6


@pytest.mark.parametrize("name", NANO_RECIPES)
def test_a_recipe_takes_a_step_moves_only_its_parts_and_saves_a_checkpoint(
    processor: Processor, tmp_path: Path, name: str
) -> None:
    recipe = replace(
        NANO_RECIPES[name](),
        steps=1,
        batch_size=2,
        warmup_steps=0,
        decay_share=0.0,
        video_share=0.0,
        photo_share=0.0,
        bf16=False,
    )
    model = fresh(processor)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    final = train(TrainingSetup(model, processor), recipe, StickerDataset(processor, recipe), tmp_path, **QUIET)
    moved = {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith(recipe.trainable) for k in moved)
    saved = load_model(final).state_dict()
    assert all(torch.equal(saved[k], v) for k, v in model.state_dict().items())


def test_clips_train_the_memory(processor: Processor, tmp_path: Path) -> None:
    recipe = replace(
        NANO_RECIPES["nano_track"](),
        steps=1,
        batch_size=2,
        warmup_steps=0,
        decay_share=0.0,
        video_share=1.0,
        photo_share=0.0,
        bf16=False,
    )
    model = fresh(processor)
    before = model.segmenter.memory_attention.layers[0].cross_attn_image.q_proj.weight.clone()
    train(TrainingSetup(model, processor), recipe, StickerDataset(processor, recipe), tmp_path, **QUIET)
    assert not torch.equal(model.segmenter.memory_attention.layers[0].cross_attn_image.q_proj.weight, before)


def test_clips_are_followed_from_given_masks_where_the_recipe_says_so(processor: Processor) -> None:
    recipe = replace(NANO_RECIPES["nano_track"](), batch_size=2, video_share=1.0, photo_share=0.0, given_masks=1.0)
    model, dataset = fresh(processor), StickerDataset(processor, recipe)
    batch = processor.collate([dataset[k] for k in range(2)], model.config)
    queries = [torch.zeros(t.shape[1], 2, model.config.sam.hidden_size) for t in batch["target_masks"]]
    given = [t[0] for t in batch["target_masks"]]
    with torch.inference_mode():
        own, known = (
            model.segment(queries, batch["sam_frames"], given=masks) for masks in (None, [~mask for mask in given])
        )
        assert torch.equal(own[0][0].low_res_masks, known[0][0].low_res_masks)  # the first frame is still predicted
        assert not torch.equal(own[0][1].low_res_masks, known[0][1].low_res_masks)
        assert "last_iou_given" in TrainingStep(model, recipe)(**batch)


def test_prompts_are_sams_own_or_mask_queries_and_exact_or_not_as_the_recipe_says(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(NANO_RECIPES["nano_track"](), batch_size=2, video_share=0.0, photo_share=0.0, corrections=0.0)
    model, dataset = fresh(processor), StickerDataset(processor, recipe)
    batch = processor.collate([dataset[k] for k in range(8)], model.config)
    decode, seen = model.segmenter.decode, []
    monkeypatch.setattr(model.segmenter, "decode", lambda *args, **how: seen.append(args[2]) or decode(*args, **how))
    native = encode_prompts(model.segmenter, batch["point_coords"], batch["point_labels"])

    def ask(**settings: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Objects that are asked for by SAM's own tokens, exactly, and the distance of the queries to these."""
        terms = TrainingStep(model, replace(recipe, **settings))(**batch)
        return (seen[-1] == native).all(-1).all(-1), terms["pointing"]

    exact, distance = ask(query_share=0.0)
    assert exact.all() and distance == 0
    exact, distance = ask(query_share=1.0)
    assert not exact.any() and distance > 0
    exact, _ = ask(query_share=0.5)
    assert 0.2 < exact.float().mean() < 0.8
    exact, _ = ask(query_share=0.0, prompt_noise=0.3)
    assert 0.2 < exact.float().mean() < 0.8
    assert (seen[-1] - native).abs().max() < 0.3 * 6


def test_talking_leaves_the_segmenter_out(processor: Processor) -> None:
    recipe = replace(NANO_RECIPES["nano_talk"](), batch_size=2, video_share=0.0, photo_share=0.0, written_choices=0.0)
    model, dataset = fresh(processor), StickerDataset(processor, recipe)
    batch = processor.collate([dataset[k] for k in range(2)], model.config)
    assert all(frames is None for frames in batch["sam_frames"]) and batch["target_masks"][0] is not None
    terms = TrainingStep(model, recipe)(**batch)
    assert terms["segment"] == 0 and terms["pointing"] > 0


def test_choices_in_words_have_no_picture_and_are_learnt_beside_the_helper_losses(processor: Processor) -> None:
    recipe = replace(NANO_RECIPES["nano_talk"](), batch_size=2, photo_share=0.0, written_choices=1.0)
    model, dataset = fresh(processor), StickerDataset(processor, recipe)
    batch = processor.collate([dataset[k] for k in range(2)], model.config)
    assert batch["grid_thw"] is None and recipe.binding
    terms = TrainingStep(model, recipe)(**batch)
    assert terms["language"] > 0 and "binding" not in terms and "words" not in terms


def test_queries_are_drawn_towards_the_prompt_that_was_given(processor: Processor) -> None:
    mix = {"point": 1.0, "box": 1.0, "refer": 1.0}
    recipe = replace(NANO_RECIPES["nano_talk"](), mix=mix, photo_share=0.0, written_choices=0.0, video_share=0.0)
    model, dataset = fresh(processor), StickerDataset(processor, recipe)
    batch = processor.collate([dataset[index] for index in range(6)], model.config)
    prompts, tasks = batch["seg_prompts"], batch["seg_tasks"]
    assert [prompt is not None for prompt in prompts] == [task in ("point", "box") for task in tasks]
    assert set(tasks) >= {"point", "box"} and not all(prompts)
    given = [prompt for prompt in prompts if prompt is not None]
    assert all(torch.equal(xy, expected) for (xy, _), expected in zip(given, batch["point_coords"], strict=True))
    whole = torch.ones(1, len(given), 8, 8, dtype=torch.bool)
    native = encode_prompts(model.segmenter, [xy for xy, _ in given], [labels for _, labels in given])
    assert pointing_loss(model, [native], [whole], given) == 0
    assert pointing_loss(model, [native], [whole]) > 0.01  # towards the box around the mask


def test_a_choice_in_words_says_of_the_objects_what_one_option_takes_up() -> None:
    kinds = set()
    for index in range(120):
        turn = ask_written_choice(Facts(generate_scene(3, index)), np.random.default_rng(index))
        if turn is None:
            continue
        lines = turn.question.splitlines()
        known = {line[:3]: line[5:] for line in lines if re.match(r"\[\d\]:", line)}
        options = {line[1]: line[4:] for line in lines if re.match(r"\([A-D]\) ", line)}
        right, asked = options[turn.answer[-2]], next(line for line in lines if line.endswith("?"))
        assert not turn.regions and len(options) >= 2 and turn.answer.startswith(f"the best option is {right} (")
        assert set(known) == set(re.findall(r"\[\d\]", asked))
        x, y, side = ({tag: int(line.split()[k]) for tag, line in known.items()} for k in (-3, -2, -1))
        mentioned = re.findall(r"\[\d\]", asked)
        if " seen from " in asked:
            kinds.add("relation")
            gap = {"left": (x, 1), "right": (x, -1), "above": (y, 1), "below": (y, -1)}[right.split()[0]]
            assert gap[1] * (gap[0][mentioned[1]] - gap[0][mentioned[0]]) >= 0
        elif asked.startswith("Which one is larger"):
            kinds.add("larger")
            assert side[right] == max(side.values())
        elif asked.startswith("Which one is the ") and " thing " not in asked:
            kinds.add("which")
            assert asked.split(",")[0].removeprefix("Which one is the ") in known[right]
        elif not asked.startswith("Which"):
            kinds.add(asked.split()[0] + asked.split()[1])
            assert right in known[mentioned[0]]
            assert [option in known[mentioned[0]].split() for option in options.values()].count(True) <= 1
    assert kinds == {"relation", "larger", "which", "Whatis", "Whatcolour", "Whereis"}


def test_a_sample_depends_on_its_number_alone(processor: Processor) -> None:
    recipe = NANO_RECIPES["nano_bind"]()
    one, other = StickerDataset(processor, recipe)[5], StickerDataset(processor, recipe)
    other[4]
    again = other[5]
    assert torch.equal(one["input_ids"], again["input_ids"]) and torch.equal(one["pixel_values"], again["pixel_values"])


def test_a_fresh_segmenter_hears_the_prompt_as_loudly_as_the_picture(processor: Processor) -> None:
    recipe = NANO_RECIPES["nano_prompt"]()
    model, dataset = fresh(processor).eval(), StickerDataset(processor, recipe)
    batch = processor.collate([dataset[0]], model.config)
    sam = model.segmenter
    with torch.inference_mode():
        features = sam.encode(batch["sam_frames"][0])
        tokens = torch.stack(
            [
                sam.prompt_encoder(xy[None], kind[None])[0, :2]
                for xy, kind in zip(batch["point_coords"], batch["point_labels"], strict=True)
            ]
        )
        logits = sam.decode(sam.add_no_memory(features), features, tokens, mark_absent=False).multimask_logits
    assert logits.std(0).mean() > 0.25 * logits.std()


def test_cells_are_named_after_what_they_show() -> None:
    world = generate_scene(3, 1)
    words = {name: 100 + i for i, name in enumerate(THINGS)}
    labels = label_cells(world, world.masks, words, 7, 7, nothing=7).view(7, 7)
    height, width = world.masks.shape[2:]
    for row, column in np.ndindex(7, 7):
        y, x = row * height // 7, column * width // 7
        cell = world.masks[:, 0, y : y + height // 7, x : x + width // 7].mean((1, 2))
        expected = words[world.objects[int(cell.argmax())].thing.name] if cell.max() > 0.3 else None
        if expected is not None:
            assert labels[row, column] == expected
        elif cell.sum() < 0.05:
            assert labels[row, column] == 7


def test_a_correcting_click_lies_where_the_mask_is_wrong() -> None:
    goal = torch.zeros(1, 8, 8, dtype=torch.bool)
    goal[0, 2:4, 2:4] = True
    painted = torch.full((1, 8, 8), -1.0)
    painted[0, 6:, 6:] = 1.0
    for _ in range(10):
        (coords,), (label,) = draw_correction_clicks(painted, goal, 8)
        x, y = (int(v) for v in coords[0])
        assert goal[0, y, x] == bool(label[0]) and (goal[0, y, x] or painted[0, y, x] > 0)


def test_the_selection_term_counts_only_pixels_of_asked_objects(processor: Processor) -> None:
    recipe = NANO_RECIPES["nano_prompt"]()
    model, dataset = fresh(processor), StickerDataset(processor, recipe)
    batch = processor.collate([dataset[0]], model.config)
    decoded = model.segment(list(torch.randn(1, batch["target_masks"][0].shape[1], 2, 128)), batch["sam_frames"])[0]
    assert decoded is not None
    goal = batch["target_masks"][0][0]
    weights = LossWeights(selection=1.0, full_resolution=False)
    nowhere = torch.zeros_like(goal[:1])
    assert frame_loss(decoded[0], goal, weights, nowhere)["selection"] == 0
    assert frame_loss(decoded[0], goal, weights)["selection"] > 0


def test_parts_of_another_checkpoint_are_taken_over_and_the_rest_is_left(processor: Processor, tmp_path: Path) -> None:
    recipe = replace(NANO_RECIPES["nano_prompt"](), steps=1, batch_size=1)
    final = train(
        TrainingSetup(fresh(processor), processor), recipe, StickerDataset(processor, recipe), tmp_path, **QUIET
    )
    model, own = fresh(processor, seed=1), fresh(processor, seed=1)
    copy_weights(model, final, ("segmenter",))
    theirs = load_model(final).state_dict()
    for name, value in model.state_dict().items():
        source = theirs if name.startswith("segmenter") else own.state_dict()
        assert torch.equal(value, source[name]), name


def test_parts_that_learnt_with_another_code_of_place_are_taken_over_with_a_warning(
    processor: Processor, tmp_path: Path
) -> None:
    model, other = fresh(processor), fresh(processor, seed=1)
    other.config.pixel = replace(other.config.pixel, region_place_encoding=False)
    save_model(other, tmp_path)
    with pytest.warns(CheckpointWarning, match="trained with region_place_encoding False, not True"):
        copy_weights(model, tmp_path, ("language",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy_weights(model, tmp_path, ("segmenter",))  # nothing of it depends on the code


def test_a_deeper_encoder_begins_with_the_answers_of_the_shallower_one(processor: Processor, tmp_path: Path) -> None:
    small = replace(
        fresh(processor).config, sam=replace(TINY_SAM, image_size=128, stages=(1, 2, 3, 1), global_blocks=(4, 5))
    )
    model = UniPixel(small)
    initialise(model, torch.Generator().manual_seed(0))
    save_model(model, tmp_path / "old")
    processor.save(tmp_path / "old")
    deepen(str(tmp_path / "old"), tmp_path / "new", (2, 3, 6, 2), (7, 9, 10))
    deeper = load_model(tmp_path / "new").segmenter
    assert deeper.config.stages == (2, 3, 6, 2) and len(deeper.vision_encoder.backbone.blocks) == 13
    frame = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        ours, theirs = deeper.encode(frame), model.segmenter.eval().encode(frame)
    for name in ("embed", "high_res_0", "high_res_1"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    with pytest.raises(ValueError, match="see something else"):
        deepen(str(tmp_path / "old"), tmp_path / "other", (2, 3, 6, 2), (6, 8, 10))
    with pytest.raises(ValueError, match="cannot hold"):
        deepen(str(tmp_path / "old"), tmp_path / "other", (1, 1, 3, 1), (3, 4))
    assert not (tmp_path / "other").exists()


def test_objects_in_memory_are_fitted_to_their_names_and_nothing_else_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_region_pool("nano", tmp_path / "fitted", 24, 40)
    shares = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(shares) == 4 and min(shares) > 0.3  # of a hundred names and more: a guess has 0.01
    before, after = load_model(resolve_checkpoint("nano")).float(), load_model(tmp_path / "fitted")
    known = before.state_dict()
    changed = {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, known[name])}
    assert {name.split(".")[0] for name in changed} == {"region_pool"}
    assert Processor.from_folder(tmp_path / "fitted").settings.region_rule == "covered"


def test_word_tables_of_another_vocabulary_are_taken_over_token_by_token(processor: Processor) -> None:
    known, smaller = processor.tokenizer.get_vocab(), build_tokenizer(["a dog", "a cat"])
    own = torch.randn(len(known), 4)
    rows = torch.arange(len(smaller), dtype=torch.float32)[:, None].expand(-1, 4)
    table = copy_rows_by_token(own, processor.tokenizer, rows, smaller)
    numbers = smaller.get_vocab()
    assert {"\u0120dog", "\u0120cat", "<|seg|>"} <= set(known) & set(numbers)
    for token, number in known.items():
        assert torch.equal(table[number], rows[numbers[token]] if token in numbers else own[number]), token


def test_cells_of_photos_are_named_after_the_smallest_region_on_them(processor: Processor) -> None:
    recipe = replace(NANO_RECIPES["nano_names"](), photo_share=0.0)
    person, hat = np.zeros((2, 1, 160, 160), bool)
    person[:, :, 32:], hat[:, 32:64, 32:64] = True, True
    sample = Sample(
        media=Media.from_array(np.zeros((160, 160, 3), np.uint8)),
        objects={1: MaskTrack.from_masks(hat), 2: MaskTrack.from_masks(person)},
        queries=tuple(
            Query(kind="caption", text=f"What is [{n}]?", answer=f"the {name}", about=(n,))
            for n, name in ((1, "hat"), (2, "person"))
        ),
        turns=(Turn(question="What is [1]?", answer="the hat", regions=(1,)),),
    )
    labels = StickerDataset(processor, recipe)._build_photo(sample, False)["cell_words"].view(10, 10)
    hats, persons = (processor.chat.encode(f" {name}")[-1] for name in ("hat", "person"))
    assert (labels[:, :2] == -100).all()
    assert (labels[2:4, 2:4] == hats).all()
    assert (labels[:2, 2:] == persons).all() and (labels[4:, 2:] == persons).all()


@pytest.mark.parametrize("words", [[-100, -100, -100], [5, 5, -100], [5, 5, 7]])
def test_the_loss_of_words_is_a_number_whatever_the_cells_show(words: list[int]) -> None:
    model = load_model("nano")
    visual = torch.randn(3, model.config.language.hidden_size, requires_grad=True)
    loss = word_loss(model, visual, torch.tensor(words))["words"]
    loss.backward()
    assert loss.isfinite() and visual.grad is not None and visual.grad.isfinite().all()


def test_an_object_in_memory_is_to_read_as_its_name() -> None:
    """Of every row the commonest name under its mask, object by object; cells that are not clear and background have
    none, and a row of those alone is left out."""
    model, width = load_model("nano"), 4 * load_model("nano").config.vision.hidden_size
    nothing, dog, cat = 5, 70, 71
    # two steps of 2 x 2 cells; the commonest word is that for background
    words = torch.tensor([dog, dog, cat, -100, nothing, nothing, nothing, cat, nothing])
    grids = ((2, 4, 4), (1, 2, 2))
    cells = len(words)
    features = VisionFeatures(torch.zeros(cells, 256), torch.randn(cells, width, requires_grad=True), grids)
    masks = torch.zeros(2, 2, 2, 2, dtype=torch.bool)
    masks[0, 0], masks[1, 1, 1, 1], masks[1, 0, 0] = True, True, True  # dog and cat, background alone, cat
    rows = model.pool_regions(features, [masks, None])
    terms = region_word_loss(model, rows, grids, [masks, None], words)
    logits = model.lm_head(torch.nn.functional.rms_norm(rows, rows.shape[-1:]))
    assert len(rows) == 3
    expected = torch.nn.functional.cross_entropy(logits[[0, 2]], torch.tensor([dog, cat]))
    torch.testing.assert_close(terms["region_words"], expected)
    terms["region_words"].backward()
    assert model.region_pool.project[0].weight.grad is not None
    assert region_word_loss(model, rows[:0], grids, [None, None], words) == {}
    assert region_word_loss(model, rows, grids, [masks, None], torch.full_like(words, -100)) == {}


def test_words_are_learnt_for_objects_in_memory_where_questions_give_them(processor: Processor) -> None:
    for mix, learns in (({"name_mem": 1.0, "name": 0.0}, True), ({"name": 1.0}, False)):
        recipe = replace(NANO_RECIPES["nano_names"](), photo_share=0.0, mix=mix, trainable=("region_pool",))
        model, data = fresh(processor), StickerDataset(processor, recipe)
        batch = processor.collate([data[0], data[1]], model.config)
        terms = TrainingStep(model, recipe)(**batch)
        added = terms["region_words"] if learns else torch.zeros(())
        torch.testing.assert_close(terms["loss"], terms["words"] + added)
        terms["loss"].backward()
        assert (model.region_pool.project[0].weight.grad is not None) == learns


def test_scenes_of_cut_outs_are_drawn_as_often_as_the_recipe_says(processor: Processor, tmp_path: Path) -> None:
    photo = tmp_path / "duts_objects" / "images"
    photo.mkdir(parents=True)
    lines = []
    for n, name in enumerate(["deer", "zyxogram"] * 2):
        mask = np.zeros((200, 260), bool)
        mask[20 + n : 110, 20:110] = True
        Image.fromarray(np.full((200, 260, 3), 40 * n, np.uint8)).save(photo / f"{n}.jpg")
        one = {"category": name, "bbox": [20, 20 + n, 90, 90 - n], "area": int(mask.sum()), "rle": encode_rle(mask)}
        lines.append({"image": f"images/{n}.jpg", "width": 260, "height": 200, "instances": [one]})
    (tmp_path / "duts_objects" / "labels.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    recipe = replace(NANO_RECIPES["nano_names"](), photo_share=0.0, cutout_share=0.5)
    with pytest.raises(ValueError, match="--set photos=DIR"):
        StickerDataset(processor, recipe)
    data = StickerDataset(processor, replace(recipe, photos=str(tmp_path)))
    known, unknown = processor.chat.encode(" deer")[0], data._find_word("zyxogram")
    assert unknown == -100
    drawn: list[bool] = []
    for index in range(24):
        labels = data[index]["cell_words"]
        drawn.append(bool((labels == known).any() or not (labels > 0).any()))
    assert 6 <= sum(drawn) <= 18
    assert not any(
        (StickerDataset(processor, replace(recipe, cutout_share=0.0))[i]["cell_words"] == known).any() for i in range(6)
    )


def test_real_clips_train_the_segmenter_and_language(processor: Processor, tmp_path: Path) -> None:
    for name in ("one", "two", "three", "four"):
        (tmp_path / name).mkdir()
        (tmp_path / "masks" / name).mkdir(parents=True)
        for t in range(4):
            ids = np.zeros((40, 60), np.uint8)
            ids[10:30, 10 + t : 30 + t] = 1
            Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / name / f"{t:05d}.jpg")
            save_davis_png(ids, tmp_path / "masks" / name / f"{t:05d}.png")
        label = {"id": 1, "category": "duck", "expressions": ["the duck"]}
        (tmp_path / name / "labels.jsonl").write_text(json.dumps(label))
    lines = [json.dumps({"sequence": name}) for name in ("one", "two", "three", "four")]
    (tmp_path / "sequences.jsonl").write_text("\n".join(lines))
    track = replace(NANO_RECIPES["nano_track"](), photo_share=0.0, video_share=1.0, clip_share=1.0)
    with pytest.raises(ValueError, match="--set clips=DIR"):
        StickerDataset(processor, track)
    data = StickerDataset(processor, replace(track, clips=str(tmp_path)))
    for index in range(4):
        made = data[index]
        assert made["target_masks"] is not None and made["target_masks"].shape[:2] == (4, 1)
        assert made["target_masks"][0].any()
    world = replace(NANO_RECIPES["nano_talk"]().world, num_frames=(2, 2))
    talk = replace(
        NANO_RECIPES["nano_talk"](), photo_share=0.0, written_choices=0.0, video_share=1.0, clip_share=1.0, world=world
    )
    labels = StickerDataset(processor, replace(talk, clips=str(tmp_path), dense_words=1.0))[0]["cell_words"]
    assert set(labels.tolist()) <= {-100, processor.chat.encode(" duck")[0]}


def test_another_look_keeps_the_scene_and_is_alike_on_all_frames() -> None:
    scene = generate_video(3, 1, SceneSettings(num_frames=(3, 3)))
    still = replace(scene, frames=scene.frames[:1].repeat(3, 0), masks=scene.masks[:, :1].repeat(3, 1))
    changed = 0
    for seed in range(12):
        made = restyle(still.frames, still.masks, np.random.default_rng(seed))
        assert made.shape == still.frames.shape and made.dtype == np.uint8
        assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], made[2])
        changed += not np.array_equal(made, still.frames)
        # bright stays brighter than dark
        grey = [x[0].mean(-1).ravel() for x in (still.frames.astype(float), made.astype(float))]
        assert np.corrcoef(*grey)[0, 1] > 0.5
    assert changed >= 9


def test_scenes_change_their_look_as_often_as_the_recipe_says(processor: Processor) -> None:
    plain, restyled = (
        StickerDataset(
            processor,
            replace(
                NANO_RECIPES["nano_finish"](),
                video_share=0.0,
                photo_share=0.0,
                cutout_share=0.0,
                written_choices=0.0,
                restyle_share=share,
            ),
        )
        for share in (0.0, 1.0)
    )
    changed = [
        index for index in range(6) if not torch.equal(plain[index]["pixel_values"], restyled[index]["pixel_values"])
    ]
    assert len(changed) >= 4


def test_activations_that_are_computed_again_give_the_same_gradients(processor: Processor) -> None:
    model = UniPixel(build_debug_config(len(processor.tokenizer), processor.chat.ids)).train()
    initialise(model, torch.Generator().manual_seed(0))
    embeds, positions = torch.randn(2, 9, model.config.language.hidden_size), torch.arange(9).expand(3, 2, -1)
    pixels, grid, frames = torch.randn(48, 1176), torch.tensor([[1, 6, 8]]), torch.randn(1, 3, 64, 64)
    blocks = (model.visual.blocks[0], model.language.layers[0], model.segmenter.vision_encoder.backbone.blocks[0])
    runs = [0] * len(blocks)

    def count(place: int) -> Any:
        def add(*_: Any) -> None:
            runs[place] += 1

        return add

    for place, block in enumerate(blocks):
        block.mlp.register_forward_pre_hook(count(place))

    def differentiate() -> dict[str, torch.Tensor]:
        model.zero_grad()
        parts = model.decode(embeds, positions), model.encode_vision(pixels, grid).merged
        sum(x.square().mean() for x in (*parts, model.segmenter.encode(frames).embed)).backward()
        return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}

    plain = differentiate()
    assert runs == [1, 1, 1]
    enable_checkpointing(model)
    again = differentiate()
    assert runs == [3, 3, 3]
    assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)
    model.eval()
    differentiate()
    assert runs == [4, 4, 4]
