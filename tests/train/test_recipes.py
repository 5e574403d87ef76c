"""Recipes: what the paper published is what is in them, and --set changes what it names."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from unipixel.errors import DatasetError
from unipixel.model.config import UniPixelConfig
from unipixel.model.tensor_names import build_disk_layout
from unipixel.model.weights import build_empty_model
from unipixel.train.checkpoints import add_lora
from unipixel.train.recipe import MixtureRecipe, Recipe, Source, keep_present_sources, override, set_data, set_start
from unipixel.train.recipes import RECIPES
from unipixel.train.run import set_trainable

PUBLISHED = {
    "refer": "videorefer_short_caption_ref inst_it_image_short_caption_raw_ref",
    "segment": "refcoco:5 refcoco+:5 refcocog:5 refclef:5 ref_youtube_vos:3",
    "joint": """revos:5 mevis:5 lvvis:3 ref_youtube_vos:5 ref_davis17:10 ref_sav:3 groundmore:3 vicas:3 reason_seg:10
        ade20k:3 cocostuff:3 mapillary:3 paco_lvis:3 pascal_part:3 refcoco:10 refcoco+:10 refcocog:10 refclef:10
        videorefer_detailed_caption:5 videorefer_qa:5 inst_it_video_qa_raw:5 osprey_conversation:5
        osprey_detail_description:5 osprey_pos_neg:5 videorefer_qa_mem:3 inst_it_video_qa_raw_mem:3
        llava_instruct_665k_videogpt_plus_576k:1""",
}
"""Mixtures as the release writes them, with the repeat factors."""


def mixture(name: str) -> MixtureRecipe:
    recipe = RECIPES[name]()
    assert isinstance(recipe, MixtureRecipe)
    return recipe


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_stage_has_the_published_mixture(name: str) -> None:
    written = []
    for source in mixture(name).sources:
        form = {"bare": "_ref", "memory": "_mem"}.get(source.form, "")
        written.append(f"{source.dataset}{form}:{source.repeat:g}")
    assert written == [text if ":" in text else f"{text}:1" for text in PUBLISHED[name].split()]


@pytest.mark.parametrize(
    ("name", "batch", "rate", "segmenter"),
    [("refer", 256, 1e-3, None), ("segment", 256, 1e-3, None), ("joint", 32, 2e-5, 5e-6)],
)
@pytest.mark.parametrize("size", ["3B", "7B"])
def test_a_stage_has_the_published_settings(
    name: str, size: str, batch: int, rate: float, segmenter: float | None
) -> None:
    recipe = mixture(name if size == "3B" else f"{name}_7b")
    assert (recipe.batch_size, recipe.micro_batch, recipe.learning_rate) == (batch, 1, rate)
    assert recipe.rates.get("segmenter") == segmenter
    assert (recipe.epochs, recipe.schedule, recipe.warmup_share, recipe.weight_decay) == (1, "cosine", 0.03, 0.0)
    assert (recipe.num_frames, recipe.objects, recipe.turns, recipe.limits.tokens) == (8, 5, 3, 40960)
    assert recipe.limits.words == (200 if name == "joint" else 500)
    assert recipe.bf16 and recipe.checkpointing and recipe.start.image_size == 768 and size in recipe.start.qwen
    losses = recipe.losses
    assert (losses.focal, losses.dice, losses.iou, losses.presence, losses.entropy) == (100, 5, 5, 5, 0)
    lora = recipe.lora
    assert (lora is None) == (name != "joint")
    assert lora is None or (lora.rank, lora.alpha, lora.dropout) == (128, 256, 0.1)


LEARNING = {
    "refer": ("ref_proj_single.", "ref_proj_double.", "ref_proj.", "tem_emb.", "tem_proj."),
    "segment": ("seg_head.",),
    "joint": (
        "model.embed_tokens.",
        *("ref_proj_single.", "ref_proj_double.", "ref_proj.", "tem_emb.", "tem_proj."),
        *("ref_encoder.", "msk_proj.", "seg_head.", "sam2."),
    ),
}
"""Disk names of what learns whole."""


def released_shapes() -> dict[str, int]:
    """Elements of every tensor of the 3B release by its disk name, `{..}` in names written out."""
    table = {}
    keys = Path(__file__).resolve().parents[1] / "model" / "keys_3b.txt"
    for line in keys.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, shape = line.split()
        count = 1
        for side in shape.split("x"):
            count *= int(side)
        match = re.search(r"\{(.+)\}", name)
        for part in match[1].split(",") if match else ["0"]:
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                table[re.sub(r"\{.+\}", str(number), name)] = count
    return table


def config_3b() -> UniPixelConfig:
    vision = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048, "tokens_per_second": 2}
    return UniPixelConfig.from_dict(
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "vision_config": {**vision, "depth": 32, "num_heads": 16, "fullatt_block_indexes": [7, 15, 23, 31]},
            "image_token_id": 151655,
            "video_token_id": 151656,
            "ref_token_id": 151665,
            "seg_token_id": 151666,
            "mem_token_id": 151667,
            "eos_token_id": 151645,
            "sam2_config": "configs/sam2.1_hiera_b+",
            "sam2_image_size": 768,
        }
    )


LORA_3B = 128 * (36 * (2 * (2048 + 2048) + 2 * (2048 + 256)) + 32 * ((1280 + 3840) + (1280 + 1280)))
"""r (in + out) for q, o and k, v of 36 decoder layers, and for qkv and proj of 32 vision blocks."""


@pytest.mark.parametrize("name", LEARNING)
def test_what_learns_in_the_3b_model_is_what_was_published(name: str) -> None:
    recipe, model = mixture(name), build_empty_model(config_3b())
    if recipe.lora:
        add_lora(model, recipe.lora)
    set_trainable(model, recipe)
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for n, p in learning.items() if ".lora_" in n) == (LORA_3B if recipe.lora else 0)
    whole = {n: p for n, p in learning.items() if ".lora_" not in n}
    released = released_shapes()
    buffers = ("positional_encoding_gaussian_matrix",)  # random Fourier matrices do not learn
    expected = {n: c for n, c in released.items() if n.startswith(LEARNING[name]) and not n.endswith(buffers)}
    found = {disk: rows[0][1].numel() for disk, rows in build_disk_layout(whole).items()}
    assert found == expected
    if name == "segment":
        assert sum(found.values()) == 2048 + 2048 * 2048 + 2048 + 512 * 2048 + 512


def test_every_recipe_has_the_name_it_goes_by_and_a_sentence_about_it() -> None:
    for name, make in RECIPES.items():
        assert make().name == name and (make.__doc__ or "").strip()
    assert {"refer", "segment", "joint", "nano_refer", "nano_segment", "nano_joint", "finetune", "debug"} <= set(
        RECIPES
    )


def test_every_field_of_a_recipe_of_plain_type_can_be_set() -> None:
    recipe = RECIPES["finetune"]()
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        if isinstance(value, bool | int | float) and field.name != "keep":
            changed = override(recipe, [f"{field.name}={value}"])
            assert getattr(changed, field.name) == value and type(getattr(changed, field.name)) is type(value)


def test_settings_reach_into_records_mappings_and_tuples() -> None:
    settings = ["steps=3", "losses.dice=2", "rates.segmenter=1e-5", "lora.rank=4", "trainable=seg_head,segmenter"]
    recipe = override(RECIPES["finetune"](), [*settings, "evaluation.every=5", "bf16=false", "schedule=stable"])
    assert (recipe.steps, recipe.losses.dice, recipe.rates) == (3, 2.0, {"segmenter": 1e-5})
    assert recipe.lora is not None and recipe.lora.rank == 4 and recipe.trainable == ("seg_head", "segmenter")
    assert recipe.evaluation.every == 5 and recipe.bf16 is False and recipe.schedule == "stable"
    assert override(recipe, ["lora=none"]).lora is None
    assert override(RECIPES["nano_bind"](), ["world.num_objects=1,3"]).world.num_objects == (1, 3)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("stepss=3", "did you mean 'steps'"),
        ("steps", "write it as field=value"),
        ("steps=1.5", "should be a whole number"),
        ("losses.dice=much", "losses.dice is 'much'; it should be a number"),
        ("save=half", "one of 'whole', 'adapter'"),
        ("bf16=perhaps", "true or false"),
        ("losses=3", "losses.NAME=VALUE"),
        ("steps.more=3", "no settings of its own"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_in_one_sentence(setting: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        override(RECIPES["finetune"](), [setting])


def test_data_choose_from_the_mixture_or_replace_it(tmp_path: Path) -> None:
    joint = mixture("joint")
    (kept,) = set_data(joint, ["mevis"]).sources
    assert kept == Source(dataset="mevis", repeat=5)
    both = set_data(joint, ["videorefer_qa"]).sources
    assert [source.form for source in both] == ["regions", "memory"]
    own = set_data(mixture("finetune"), [f"folder:{tmp_path}"]).sources
    assert [(source.dataset, source.split, source.form) for source in own] == [
        (f"folder:{tmp_path}", "train", "regions"),
        (f"folder:{tmp_path}", "train", "prompts"),
    ]
    with pytest.raises(DatasetError, match="did you mean 'mevis'"):
        set_data(joint, ["mevi"])
    with pytest.raises(ValueError, match="draws stickers"):
        set_data(RECIPES["nano_bind"](), ["mevis"])


def test_absent_datasets_are_left_out_by_name_when_that_is_asked_for(tmp_path: Path) -> None:
    recipe = replace(mixture("segment"), sources=(*mixture("segment").sources, Source(dataset="stickers")))
    kept, absent = keep_present_sources(recipe, tmp_path)
    assert isinstance(kept, MixtureRecipe) and [source.dataset for source in kept.sources] == ["stickers"]
    assert absent == ("refcoco", "refcoco+", "refcocog", "refclef", "ref_youtube_vos")
    with pytest.raises(ValueError, match="no dataset of segment"):
        keep_present_sources(mixture("segment"), tmp_path)


def test_a_model_on_the_command_line_takes_the_place_of_the_start() -> None:
    recipe = set_start(mixture("joint"), "a/folder", ["run/final=segmenter"])
    assert (recipe.start.model, recipe.start.qwen, recipe.start.parts) == ("a/folder", "", ("run/final=segmenter",))
