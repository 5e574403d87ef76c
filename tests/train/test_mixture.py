"""Records as training samples: drawn by their number alone, within the limits, and named when they are bad."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unipixel import data
from unipixel.draw import write_mp4
from unipixel.errors import DatasetError
from unipixel.processing.processor import Processor
from unipixel.train.mixture import MixtureDataset, assign_pointing, collect_entries
from unipixel.train.recipe import MixtureRecipe, RecordLimits, Source, SourceForm
from unipixel.train.recipes import joint


@pytest.fixture(scope="module")
def processor(tiny: Path) -> Processor:
    return Processor.from_folder(tiny)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two pictures of own data with six squares each."""
    folder = tmp_path / "own"
    for name in ("a", "b"):
        mask = np.zeros((40, 60), dtype=np.uint8)
        for k in range(6):
            mask[4:14, 10 * k : 10 * k + 8] = k + 1
        for place, picture in (("images", np.stack([mask * 30] * 3, -1)), ("masks", mask)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / place / f"{name}.png")
    labels = {name: {str(k): f"square {k}" for k in range(1, 7)} for name in ("a", "b")}
    (folder / "labels.json").write_text(json.dumps(labels))
    (folder / "splits.json").write_text(json.dumps({"train": ["a", "b"], "val": ["a"]}))
    return folder


def recipe_of(own: Path, **changes: object) -> MixtureRecipe:
    recipe = MixtureRecipe(
        name="test", steps=4, sources=(Source(dataset=f"folder:{own}"),), batch_size=2, turns=6, objects=3
    )
    return replace(recipe, **changes)


def test_a_sample_depends_on_its_number_alone(processor: Processor, own: Path) -> None:
    one = MixtureDataset(processor, recipe_of(own), None)
    other = MixtureDataset(processor, recipe_of(own), None)
    other[4]
    first, second = one[5], other[5]
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert not torch.equal(one[5 + 2]["input_ids"], first["input_ids"]) and len(one) == 8


def test_some_of_many_objects_are_segmented_each_in_its_own_place(processor: Processor, own: Path) -> None:
    every = MixtureDataset(processor, recipe_of(own, objects=0), None)[0]
    some = MixtureDataset(processor, recipe_of(own), None)[0]
    assert torch.equal(every["input_ids"], some["input_ids"])
    chosen = some["chosen_objects"]
    assert every["target_masks"] is not None and some["target_masks"] is not None
    assert every["target_masks"].shape[1] == 6 and len(chosen) == 3
    assert torch.equal(every["target_masks"][:, chosen], some["target_masks"])
    assert len(some["seg_tasks"]) == 3


def test_clicks_teach_every_object_under_ids_from_one_on(processor: Processor, own: Path) -> None:
    made = MixtureDataset(processor, recipe_of(own, sources=(Source(dataset=f"folder:{own}", form="prompts"),)), None)
    sample = made[0]
    text = processor.tokenizer.decode(sample["input_ids"])
    assert text.count("<|ref|>") == text.count("<|seg|>") == 6 and "[6]<|seg|>" in text
    assert {len(coords) for coords in sample["point_coords"]} == {1, 2}


def test_records_over_a_limit_are_replaced_and_none_left_is_an_error(processor: Processor, own: Path) -> None:
    with pytest.raises(DatasetError, match=r"tokens, at most 3"):
        MixtureDataset(processor, recipe_of(own, limits=RecordLimits(tokens=3)), None)[0]
    labels = json.loads((own / "labels.json").read_text())
    labels["b"] = {"1": " ".join(["long"] * 200)}
    (own / "labels.json").write_text(json.dumps(labels))
    made = MixtureDataset(processor, recipe_of(own, limits=RecordLimits(tokens=400)), None)
    texts = [processor.tokenizer.decode(made[k]["input_ids"]) for k in range(4)]
    assert all("long" not in text and "square" in text for text in texts)


def test_the_word_limit_holds_where_objects_are_regions_and_for_whole_conversations(
    processor: Processor, stage_data: Path
) -> None:
    def count(**source: Any) -> int:
        recipe = MixtureRecipe(name="test", sources=(Source(**source),), limits=RecordLimits(words=1))
        try:
            return len(collect_entries(recipe, stage_data)[0])
        except DatasetError as error:
            assert "none of which can be used" in str(error)
            return 0

    assert count(dataset="videorefer_qa") == count(dataset="osprey_conversation") == 0
    assert count(dataset="llava_instruct_665k_videogpt_plus_576k") == 2  # answers of one word
    assert count(dataset="videorefer_qa", form="memory") == count(dataset="videorefer_short_caption", form="bare") == 1
    assert count(dataset="refcoco") > 0


def test_clips_with_many_objects_are_left_out_as_the_original_does(
    stage_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = data.open_index("inst_it_video_qa_raw", stage_data, "train")
    many = [replace(record, clip_objects=6) for record in records]
    monkeypatch.setattr(data, "open_index", lambda *_, **__: [*records, *many])
    counts = {}
    for protocol in ("correct", "original"):
        for form in ("regions", "memory"):
            source = Source(dataset="inst_it_video_qa_raw", form=form)
            recipe = MixtureRecipe(name="test", sources=(source,), protocol=protocol)
            counts[protocol, form] = len(collect_entries(recipe, stage_data)[0])
    whole = 2 * len(records)
    assert counts.pop(("original", "regions")) == len(records) and set(counts.values()) == {whole}


def test_half_of_what_is_pointed_at_has_points_throughout_the_run() -> None:
    bare, memory = Source(dataset="a", form="bare"), Source(dataset="b", form="memory")
    sources = [bare] * 9 + [Source(dataset="c")] * 3 + [memory] * 4
    drawn = {tuple(assign_pointing(sources, np.random.default_rng(seed))) for seed in range(8)}
    assert len(drawn) > 4
    for one in drawn:
        assert one[:9].count("points") == 4 and one[:9].count("boxes") == 5
        assert one[9:12] == ("mixed",) * 3 and one[12:].count("points") == one[12:].count("boxes") == 2


def test_words_alone_pictures_and_timed_videos_are_learnt_side_by_side(
    processor: Processor, stage_data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(stage_data / "general", root / "general")
    shutil.copytree(stage_data / "llava_instruct", root / "llava_instruct")
    (root / "videogpt_plus").mkdir()
    frames = [np.full((24, 32, 3), 10 * k, dtype=np.uint8) for k in range(20)]
    write_mp4(frames, root / "videogpt_plus/v.mp4", fps=5)
    file = next((root / "general").iterdir())
    turns = [{"from": "human", "value": "<video>\nWhat happens?"}, {"from": "gpt", "value": "It grows light."}]
    file.write_text(json.dumps([*json.loads(file.read_text()), {"id": 3, "video": "v.mp4", "conversations": turns}]))
    recipe = replace(
        MixtureRecipe(name="test", batch_size=1),
        sources=tuple(source for source in joint().sources if source.dataset.startswith("llava")),
    )
    made = MixtureDataset(processor, recipe, root)
    pads = {name: processor.chat.ids[f"<|{name}_pad|>"] for name in ("image", "video")}
    picture, words, video = (made.build_inputs(number, np.random.default_rng(0)) for number in range(3))
    assert not isinstance(picture, str) and not isinstance(words, str) and not isinstance(video, str)
    has = [[pads[name] in one["input_ids"].tolist() for name in pads] for one in (picture, words, video)]
    assert has == [[True, False], [False, False], [False, True]]
    # 4 s at 2 per second are 8 of 20 frames
    assert video["grid_thw"][0, 0] == 4 and video["second_per_grid"].tolist() == pytest.approx([1.0])
    assert len(words["grid_thw"]) == 0 and words["target_masks"] is None


@pytest.mark.parametrize("place", ["images", "masks"])
@pytest.mark.parametrize("damage", ["gone", "cut", "other size"])
def test_one_bad_record_is_left_out_and_named(
    processor: Processor, own: Path, tmp_path: Path, place: str, damage: str
) -> None:
    path = own / place / "b.png"
    if damage == "gone":
        path.unlink() if place == "masks" else path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        Image.new("L", (9, 9)).save(path)
    made = MixtureDataset(processor, recipe_of(own), None, bad_file=tmp_path / "bad.jsonl")
    again = MixtureDataset(processor, recipe_of(own), None, bad_file=tmp_path / "bad.jsonl")
    assert [len(made[k]["input_ids"]) for k in range(8)]
    assert list(again.bad.collect_reasons()) == ["folder/train b"]  # as another process finds it
    assert (
        "left out: 1 of 2 records, which cannot be read: " in made.bad.describe()
        and "folder/train b" in made.bad.describe()
    )


def test_more_bad_records_than_are_allowed_end_a_run(processor: Processor, own: Path) -> None:
    for name in ("a", "b"):
        (own / "images" / f"{name}.png").write_bytes(b"no picture")
    made = MixtureDataset(processor, recipe_of(own), None)
    with pytest.raises(DatasetError, match=r"2 of 2 records cannot be read, .*folder/train a: .*--max-bad"):
        for k in range(8):
            made[k]


@pytest.mark.parametrize("form", ["regions", "prompts", "boxes"])
def test_pictures_without_objects_teach_words(processor: Processor, own: Path, form: SourceForm) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.zeros((40, 60), dtype=np.uint8)).save(own / "masks" / f"{name}.png")
    (own / "labels.json").unlink()
    sources = (Source(dataset=f"folder:{own}", form=form),)
    made = MixtureDataset(processor, recipe_of(own, sources=sources), None)
    sample = made[0]
    assert "object" in processor.tokenizer.decode(sample["input_ids"])
    assert sample["target_masks"] is not None and not sample["target_masks"].any() and not made.bad.collect_reasons()


def test_a_mixture_without_data_says_how_to_name_some(processor: Processor, own: Path) -> None:
    with pytest.raises(DatasetError, match="--data"):
        MixtureDataset(processor, recipe_of(own, sources=()), None)


def test_frames_are_drawn_and_clips_keep_their_objects_in_sight(processor: Processor, stage_data: Path) -> None:
    recipe = MixtureRecipe(
        name="test", sources=(Source(dataset="videorefer_detailed_caption"),), batch_size=1, num_frames=3
    )
    made = MixtureDataset(processor, recipe, stage_data)
    seen = {processor.tokenizer.decode(made[k]["input_ids"]).count("<|mem|>") for k in range(3)}
    assert seen == {2}  # three frames are two temporal steps
