"""Answers on their way out: JSON, COCO, DAVIS, drawings, files."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av.codec
import numpy as np
import pytest
import torch
from PIL import Image

from unipixel.engine import answer as answering
from unipixel.engine.answer import Answer, Clip, Clock, MaskPiece, Timings
from unipixel.engine.memory import Anchor, KnownObject
from unipixel.masks import MaskTrack, decode_rle, load_index_png
from unipixel.media import Media, open_media
from unipixel.sample import Mask


def track(*boxes: tuple[int, int, int, int] | None) -> MaskTrack:
    masks = np.zeros((len(boxes), 24, 32), bool)
    for t, box in enumerate(boxes):
        if box is not None:
            masks[t, box[1] : box[3], box[0] : box[2]] = True
    return MaskTrack.from_masks(masks)


@pytest.fixture
def answer() -> Answer:
    """Three frames of a longer video; object 1 leaves, object 4 is never there, object 2 lies over object 1."""
    frames = np.random.default_rng(0).integers(0, 255, (5, 24, 32, 3), dtype=np.uint8)
    media = Media.from_array(frames, fps=10.0).select([0, 2, 4])
    objects = (
        KnownObject(id=1, label="dog", track=track((2, 3, 12, 10), (4, 3, 14, 10), None), frame_scores=(0.9, 0.7, 0.1)),
        KnownObject(id=4, label="", track=track(None, None, None), frame_scores=(0.0, 0.0, 0.0)),
        KnownObject(id=2, label="dog", track=track((8, 3, 20, 10), None, (0, 0, 5, 5)), frame_scores=(0.5, 0.2, 0.6)),
    )
    return Answer(
        text="the dog [1], [4] and [2]",
        raw_text="the dog <|seg|>, <|seg|> and <|seg|>",
        objects=objects,
        clip=Clip.from_media(media),
        question="Where?",
        tokens=(1, 2, 3),
        timings=Timings({"read": 0.25}),
    )


def test_json_has_everything_and_is_plain(answer: Answer) -> None:
    tree = json.loads(json.dumps(answer.to_json(), allow_nan=False))
    assert tree["text"] == "the dog [1], [4] and [2]"
    assert tree["media"] == {
        "source": answer.clip.source,
        "height": 24,
        "width": 32,
        "fps": 10.0,
        "frame_indices": [0, 2, 4],
        "is_video": True,
    }
    dog, absent, _ = tree["objects"]
    assert (dog["score"], absent["score"]) == (0.8, "not there")
    assert dog["boxes_xyxy"] == [[2, 3, 12, 10], [4, 3, 14, 10], None]
    assert dog["visible"] == [True, True, False]
    assert MaskTrack.from_json(dog) == answer.objects[0].track
    assert tree["timings_s"] == {"read": 0.25}


def test_coco_has_an_annotation_for_every_visible_mask(answer: Answer) -> None:
    tree = json.loads(json.dumps(answer.to_coco(), allow_nan=False))
    assert [(image["id"], image["frame_index"]) for image in tree["images"]] == [(0, 0), (1, 2), (2, 4)]
    assert [image["file_name"] for image in tree["images"]] == [f"frame_{n:06d}.png" for n in (0, 2, 4)]
    assert [c["name"] for c in tree["categories"]] == ["dog", "object"]
    found = [(a["image_id"], a["track_id"], a["bbox"], a["area"], a["score"]) for a in tree["annotations"]]
    assert found == [
        (0, 1, [2, 3, 10, 7], 70, 0.9),
        (1, 1, [4, 3, 10, 7], 70, 0.7),
        (0, 2, [8, 3, 12, 7], 84, 0.5),
        (2, 2, [0, 0, 5, 5], 25, 0.6),
    ]
    assert decode_rle(tree["annotations"][0]["segmentation"]).sum() == 70


def test_davis_files_are_named_by_source_frames_and_the_surer_object_is_on_top(answer: Answer, tmp_path: Path) -> None:
    paths = answer.to_davis(tmp_path)
    assert [path.name for path in paths] == ["00000.png", "00002.png", "00004.png"]
    first = load_index_png(paths[0])
    assert (first[5, 5], first[5, 10], first[5, 15], first[20, 20]) == (1, 1, 2, 0)
    assert load_index_png(paths[2]).max() == 2


def test_davis_refuses_ids_that_do_not_fit(answer: Answer, tmp_path: Path) -> None:
    big = KnownObject(id=300, label="", track=answer.objects[0].track, frame_scores=(0.1, 0.1, 0.1))
    many = Answer(text="", raw_text="", objects=(big,), clip=answer.clip)
    with pytest.raises(ValueError, match="object id 300 does not fit a palette PNG"):
        many.to_davis(tmp_path)


def test_drawings_show_masks_on_the_frames_of_the_clip(answer: Answer) -> None:
    drawn = answer.draw()
    assert drawn.shape == (3, 24, 32, 3)
    frame = answer.clip.media.frame(0)
    np.testing.assert_array_equal(answer.draw(0), drawn[0])
    assert (drawn[0, 5, 5] != frame[5, 5]).any()
    np.testing.assert_array_equal(drawn[1, 20:, 20:], answer.clip.media.frame(1)[20:, 20:])


@pytest.mark.parametrize("name", ["a.json", "a.png", "a.gif", "a.mp4", "deep/er/a.png"])
def test_answers_are_saved_by_suffix(answer: Answer, tmp_path: Path, name: str) -> None:
    path = answer.save(tmp_path / name)
    assert path.stat().st_size > 100


def test_a_folder_holds_everything(answer: Answer, tmp_path: Path) -> None:
    answer.save(tmp_path / "out")
    names = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert names == ["answer.json", "masks/00000.png", "masks/00002.png", "masks/00004.png", "overlay.mp4"]


def test_a_still_image_is_saved_at_its_own_size(tmp_path: Path) -> None:
    media = Media.from_array(np.zeros((24, 32, 3), np.uint8))
    still = Answer(text="", raw_text="", objects=(), clip=Clip.from_media(media))
    still.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (32, 24)
    still.save(tmp_path / "out")
    assert (tmp_path / "out" / "overlay.png").exists()


def test_unknown_suffixes_are_refused(answer: Answer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be saved as '\.doc'; use \.json"):
        answer.save(tmp_path / "a.doc")


def test_supervision_is_optional_and_its_absence_is_said(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="needs the package 'supervision', which is not installed"):
        answer.to_supervision()


def test_supervision_gets_classes_and_their_names(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(Detections=lambda **fields: SimpleNamespace(**fields))
    monkeypatch.setitem(sys.modules, "supervision", made)
    objects = (*answer.objects[:2], replace(answer.objects[2], label="cat"))
    frames = replace(answer, objects=objects).to_supervision()
    assert frames[0].class_id.tolist() == [0, 2] and frames[0].tracker_id.tolist() == [1, 2]
    assert frames[0].data["class_name"].tolist() == ["dog", "cat"]


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
@pytest.mark.parametrize("fps", [0.1, 0.37, 7.0, 24.0, 120.0])
def test_drawings_last_as_long_as_the_clip(tmp_path: Path, fps: float, suffix: str) -> None:
    frames = np.stack([np.full((24, 32, 3), 8 * t, dtype=np.uint8) for t in range(30)])
    media = Media.from_array(frames, fps=fps)
    made = Answer(text="", raw_text="", objects=(), clip=Clip.from_media(media)).save(tmp_path / f"a{suffix}")
    again = open_media(made)
    assert again.num_frames / again.fps == pytest.approx(30 / fps, rel=0.02, abs=0.021)
    slow = Answer(text="", raw_text="", objects=(), clip=Clip.from_media(media.select([0, 10, 20, 29])))
    slow.save(tmp_path / f"b{suffix}")
    shown = open_media(tmp_path / f"b{suffix}").timestamps_s
    assert shown is not None and shown[-1] == pytest.approx(29 / fps, rel=0.05, abs=0.03)


def test_supervision_detections_are_one_per_frame(answer: Answer) -> None:
    pytest.importorskip("supervision")
    frames = answer.to_supervision()
    assert [len(frame) for frame in frames] == [2, 1, 1]
    assert frames[0].tracker_id.tolist() == [1, 2]


def test_a_stage_inside_another_is_booked_once() -> None:
    clock = Clock()
    with clock.stage("track"), clock.stage("sam_encode"):
        sum(range(200_000))
    clock.count("sam_encode", 2)
    timings = clock.take()
    assert 0 <= timings["track"] < timings["sam_encode"]
    assert timings.seconds_per_item("sam_encode") == timings["sam_encode"] / 2
    assert np.isnan(timings.seconds_per_item("decode"))
    assert timings.total == pytest.approx(timings["track"] + timings["sam_encode"])
    assert clock.take().total == 0


def test_on_cuda_stages_are_marked_on_the_device_and_nothing_waits_before_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With events of a device whose clock is a list of moments."""
    moments, waited = iter(range(0, 10_000, 10)), []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda"
            self.moment_ms = next(moments)

        def synchronize(self) -> None:
            waited.append(self.moment_ms)

        def elapsed_time(self, later: Event) -> float:
            return later.moment_ms - self.moment_ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    clock = Clock(torch.device("cuda"))
    with clock.stage("track"), clock.stage("sam_encode"):
        pass
    with clock.stage("track"):
        assert not waited
    timings = clock.take()
    assert (timings["track"], timings["sam_encode"]) == (pytest.approx(0.03), pytest.approx(0.01))
    assert waited == [20, 30, 50] and clock.take().total == 0
    for _ in range(4):
        with clock.stage("decode"):
            pass
    monkeypatch.setattr(answering, "SPANS", 2)
    waited.clear()
    with clock.stage("decode"):
        pass
    assert len(waited) == 2  # of a clock that is not read for long, the oldest stages are booked
    assert clock.take()["decode"] == pytest.approx(0.05)


def test_records_show_themselves_in_a_line_whatever_they_hold(answer: Answer) -> None:
    assert repr(answer.objects[0]) == "KnownObject(1, 'dog', on 2 of 3 frames, score 0.80)"
    assert repr(answer.objects[1]) == "KnownObject(4, '', on 0 of 3 frames, not there)"
    assert repr(answer.objects[2].track) == "MaskTrack(24 x 32, on 2 of 3 frames)"
    known = replace(
        answer.objects[0],
        prompts=(Mask(np.ones((24, 32), bool)),),
        anchors=(Anchor(0, torch.zeros(2, 64)),),
        earlier=(answer.objects[1],),
    )
    piece = MaskPiece(2, {2: answer.objects[2].track.rles[2]}, {2: 0.6})
    assert repr(known.prompts[0]) == "Mask(frame=0, object_id=None)"
    assert repr(known.anchors[0]) == "Anchor(frame=0, first=0, last=0)"
    assert repr(piece) == "MaskPiece(t=2, scores={2: 0.6})"
    for one in (replace(answer, objects=(known, *answer.objects), tokens=(5,) * 999), known, piece):
        assert len(repr(one)) < 500 and "\n" not in repr(one)
        assert "tensor" not in repr(one) and "counts" not in repr(one) and "999" not in repr(one)


def test_a_notebook_shows_words_video_and_a_line_for_every_object(answer: Answer) -> None:
    shown = replace(answer, text="<b>the dog</b> [1]")._repr_html_()
    assert "<p>&lt;b&gt;the dog&lt;/b&gt; [1]</p>" in shown and "<b>" not in shown
    assert "[1] dog, score 0.80, on 2 of 3 frames" in shown and "[4], not there" in shown
    (kind, data) = re.findall(r'src="data:([\w/]+);base64,([^"]+)"', shown)[0]
    assert kind == ("video/mp4" if "libx264" in av.codec.codecs_available else "image/gif")
    clip = open_media(base64.b64decode(data))
    assert clip.num_frames == 3 and clip.size_hw == (24, 32)
    colours = [one[3:10, 2:12].mean((0, 1)) for one in (clip.frame(0), answer.draw(0), answer.clip.media.frame(0))]
    assert np.abs(colours[0] - colours[1]).max() < 12 < np.abs(colours[0] - colours[2]).max()  # with the mask over it
    sheet = Image.open(io.BytesIO(answer._repr_png_() or b""))
    assert np.array_equal(np.asarray(sheet.convert("RGB")), np.asarray(answer.image.convert("RGB")))


def test_a_notebook_shows_a_large_picture_smaller_and_none_without_objects() -> None:
    media = open_media(np.zeros((1200, 1920, 3), np.uint8))
    masks = np.zeros((1, 1200, 1920), bool)
    masks[:, 100:900, 200:1500] = True
    one = KnownObject(id=1, label="<i>", track=MaskTrack.from_masks(masks), frame_scores=(0.5,))
    answer = Answer(text="[1]", raw_text="", objects=(one,), clip=Clip.from_media(media))
    assert answer.image.size == (1920, 1200) and Image.open(io.BytesIO(answer._repr_png_() or b"")).size == (960, 600)
    shown = answer._repr_html_()
    assert "data:image/png;base64," in shown and "[1] &lt;i&gt;, score 0.50</div>" in shown
    words = replace(answer, objects=())
    assert words._repr_html_() == "<p>[1]</p>" and words._repr_png_() is None


def test_a_notebook_shows_few_frames_of_a_long_clip() -> None:
    media = Media.from_array(np.zeros((500, 4, 6, 3), np.uint8), fps=50.0)
    track = MaskTrack((4, 6), (None,) * 500)
    known = KnownObject(id=1, label="", track=track, frame_scores=(0.0,) * 500)
    answer = Answer(text="", raw_text="", objects=(known,), clip=Clip.from_media(media))
    (data,) = re.findall(r'base64,([^"]+)"', answer._repr_html_())
    clip = open_media(base64.b64decode(data))
    assert clip.num_frames == 240 and clip.fps == pytest.approx(24, rel=0.05)


def test_a_notebook_says_that_frames_are_gone(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    media = open_media(tmp_path / "a.png")
    known = KnownObject(id=1, label="", track=MaskTrack((6, 8), (None,)), frame_scores=(0.0,))
    answer = Answer(text="words", raw_text="", objects=(known,), clip=Clip.from_media(media))
    (tmp_path / "a.png").unlink()
    assert answer._repr_png_() is None
    assert "<p>words</p>" in answer._repr_html_() and "cannot be read any more" in answer._repr_html_()
