"""ReasonSeg, on the miniature and on a small tree with defects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from unipixel.data.readers import reason_seg
from unipixel.errors import DatasetError

FOLDER = "lisa/reason_seg/ReasonSeg"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_text_of_the_miniature_is_a_record(miniatures: Path, split: str) -> None:
    records = reason_seg.read_records(miniatures, "reason_seg", split)
    count = sum(len(json.loads(path.read_bytes())["text"]) for path in (miniatures / FOLDER / split).glob("*.json"))
    if split == "train":
        count += len(json.loads((miniatures / FOLDER / "explanatory/train.json").read_bytes()))
    assert len(records) == count == len({record.id for record in records}) > 0


def test_training_photos_have_an_explained_question_as_well(miniatures: Path) -> None:
    records = reason_seg.read_records(miniatures, "reason_seg", "train")
    explained = [record for record in records if "explained" in record.id]
    told = json.loads((miniatures / FOLDER / "explanatory/train.json").read_bytes())
    assert len(explained) == len(told) > 0
    first = told[0]
    (query,) = reason_seg.read_sample(
        next(r for r in explained if r.id == f"{Path(first['image']).stem}/explained 0")
    ).queries
    assert query.kind == "explanatory" and query.targets == (1,)
    assert (query.text, query.answer) == (first["query"], first["outputs"])


def test_targets_are_the_outlines_and_ignored_regions_stand_apart(miniatures: Path) -> None:
    ignoring, expected = 0, 0
    for record in reason_seg.read_records(miniatures, "reason_seg", "test"):
        sample = reason_seg.read_sample(record)
        document = json.loads((miniatures / record.raw[0]).read_bytes())
        assert sample.queries[0].kind == ("sentence" if document["is_sentence"] else "query")
        outlines = [np.reshape(s["points"], -1).tolist() for s in document["shapes"] if s["label"] == "target"]
        drawn = coco.decode(coco.merge(coco.frPyObjects(outlines, *sample.media.size_hw))).astype(bool)
        target = sample.objects[1].mask(0)
        # Ours includes the pixels of the outline, COCO's rasteriser cuts through them.
        difference = (target ^ drawn).sum() / max(1, (target | drawn).sum())
        assert difference < 0.35 and (drawn & ~target).sum() <= 0.06 * drawn.sum()
        expected += any(s["label"] == "ignore" for s in document["shapes"])
        if "ignore" in sample.areas:
            ignoring += 1
            assert not (sample.areas["ignore"].mask(0) & target).any()
    assert ignoring == expected > 0


@pytest.fixture
def annotate(write_json: Callable[[str, Any], Path], write_picture: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a photo of 12 x 16 with an annotation."""

    def write(name: str = "a", split: str = "val", **changed: Any) -> Path:
        write_picture(f"{FOLDER}/{split}/{name}.jpg")
        square = [[2, 2], [5, 2], [5, 5], [2, 5]]
        shapes = [
            {"label": "ignore", "points": [[0, 0], [9, 0], [9, 9], [0, 9]]},
            {"label": "target", "points": square},
            {"label": "flag", "points": square},
        ]
        document = {"text": ["a hat"], "is_sentence": False, "shapes": shapes, **changed}
        return write_json(f"{FOLDER}/{split}/{name}.json", document)

    return write


def test_small_targets_lie_above_large_ignored_regions(annotate: Callable[..., Path], tmp_path: Path) -> None:
    annotate(text=["a hat", "something to wear"])
    first, second = reason_seg.read_records(tmp_path, "reason_seg", "val")
    sample = reason_seg.read_sample(first, [0, 0])
    assert sample.objects[1].areas.tolist() == [16, 16]
    assert sample.areas["ignore"].areas.tolist() == [84, 84]
    assert (first.id, second.id, reason_seg.read_sample(second).queries[0].text) == ("a/0", "a/1", "something to wear")


def test_windows_1252_is_read(annotate: Callable[..., Path], tmp_path: Path) -> None:
    path = annotate()
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"text": ["the café"]}, ensure_ascii=False)
    path.write_bytes(text.encode("cp1252"))
    (record,) = reason_seg.read_records(tmp_path, "reason_seg", "val")
    assert reason_seg.read_sample(record).queries[0].text == "the café"


def test_wrong_annotations_are_named(annotate: Callable[..., Path], tmp_path: Path) -> None:
    def index(split: str = "val") -> Any:
        return reason_seg.read_records(tmp_path, "reason_seg", split)

    with pytest.raises(DatasetError, match=r"reason_seg: the folder .*val does not exist"):
        index()
    annotate(text=[])
    with pytest.raises(DatasetError, match=r"a\.json: the field 'text' is \[\]"):
        index()
    annotate(shapes=[{"label": "thing", "points": []}])
    with pytest.raises(DatasetError, match="reason_seg/val a/0, shape 0: the label is 'thing'"):
        reason_seg.read_sample(index()[0])
    annotate().write_text('{"text": ["a', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"a\.json is not valid JSON"):
        index()


def test_explanations_must_match_a_photo(
    annotate: Callable[..., Path], tmp_path: Path, write_json: Callable[[str, Any], Path]
) -> None:
    annotate(split="train")
    with pytest.raises(DatasetError, match=r"explanatory.*does not exist"):
        reason_seg.read_records(tmp_path, "reason_seg", "train")
    rows = [{"image": "b.jpg", "query": "Why?", "outputs": "So.", "json": "b.json"}]
    write_json(f"{FOLDER}/explanatory/train.json", rows)
    with pytest.raises(DatasetError, match="entry 0: there is no photo 'b' in the train split"):
        reason_seg.read_records(tmp_path, "reason_seg", "train")
