"""Sessions in files: a restored session is the live one, and files that are no sessions are refused."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine
from unipixel.engine.session import Session
from unipixel.errors import CheckpointError, MediaError
from unipixel.media import open_media
from unipixel.sample import Box, Mask, Point

Clips = Callable[..., np.ndarray]
SHORT = {"max_new_tokens": 16}


def used(engine: Engine, frames: object, **options: object) -> Session:
    """A session in which everything has happened."""
    session = engine.open(frames, **options)
    height, width = session.media.size_hw
    mask = np.zeros((height, width), bool)
    mask[5:40, 8:60] = True
    session.ask("Please segment the dog in this video.", **SHORT)
    session.ask("What is this?", prompts=[Point(40, 30, frame=1), Box(5, 5, 60, 60)], **SHORT)
    session.segment(Mask(mask))
    session.correct(1, [Point(50, 40, frame=2), Point(5, 5, frame=2, positive=False)])
    session.remove(2)
    session.rename(1, "renamed")
    return session


def assert_same(a: Answer, b: Answer) -> None:
    assert (a.text, a.raw_text, a.tokens) == (b.text, b.raw_text, b.tokens)
    for one, other in zip(a.objects, b.objects, strict=True):
        assert (one.id, one.label) == (other.id, other.label)
        assert (one.masks == other.masks).mean() > 0.9999


def test_a_restored_session_is_the_live_one(tiny_engine: Engine, clip: Clips, tmp_path: Path) -> None:
    live = used(tiny_engine, clip(4))
    live.save(tmp_path / "session.zip")
    restored = tiny_engine.open_session(tmp_path / "session.zip")
    assert restored.objects.keys() == live.objects.keys()
    for i, known in live.objects.items():
        other = restored.objects[i]
        assert (other.label, other.track, other.frame_scores) == (known.label, known.track, known.frame_scores)
        assert [a.frame for a in other.anchors] == [a.frame for a in known.anchors]
        assert len(other.prompts) == len(known.prompts)
    assert (restored.frame_indices, restored.seen_frames) == (live.frame_indices, live.seen_frames)
    np.testing.assert_array_equal(restored.media.frames(), live.media.frames())
    for question in ("What colour is [1]?", "Please segment the ball."):
        assert_same(restored.ask(question, **SHORT), live.ask(question, **SHORT))
    correction = Point(30, 60, frame=3)
    assert (restored.correct(1, correction).masks == live.correct(1, correction).masks).mean() > 0.9999
    answers = [s.ask("What is this?", prompts=Point(9, 9), **SHORT) for s in (restored, live)]
    assert_same(*answers)


def test_a_session_that_was_never_asked_anything_can_be_saved(tiny_engine: Engine, clip: Clips, tmp_path: Path) -> None:
    tiny_engine.open(clip(2)).save(tmp_path / "s.zip")
    restored = tiny_engine.open_session(tmp_path / "s.zip")
    assert restored.objects == {}
    assert_same(restored.ask("What is this?", **SHORT), tiny_engine.open(clip(2)).ask("What is this?", **SHORT))


def test_a_restored_session_can_be_saved_again(tiny_engine: Engine, clip: Clips, tmp_path: Path) -> None:
    live = used(tiny_engine, clip(3))
    live.save(tmp_path / "one.zip")
    tiny_engine.open_session(tmp_path / "one.zip").save(tmp_path / "two.zip")
    again = tiny_engine.open_session(tmp_path / "two.zip")
    assert_same(again.ask("What is this?", **SHORT), live.ask("What is this?", **SHORT))


@pytest.fixture
def folder(clip: Clips, tmp_path: Path) -> Path:
    """Twelve frames on disk."""
    path = tmp_path / "frames"
    path.mkdir()
    for t, frame in enumerate(clip(12)):
        Image.fromarray(frame).save(path / f"{t}.png")
    return path


def test_a_session_can_name_its_source_instead_of_holding_frames(
    tiny_engine: Engine, folder: Path, tmp_path: Path
) -> None:
    live = used(tiny_engine, folder, num_frames=4)
    live.save(tmp_path / "s.zip", frames=False)
    assert [name for name in zipfile.ZipFile(tmp_path / "s.zip").namelist() if name.endswith("png")] == []
    restored = tiny_engine.open_session(tmp_path / "s.zip")
    assert restored.frame_indices == live.frame_indices == (0, 4, 7, 11)
    assert_same(restored.ask("What is this?", **SHORT), live.ask("What is this?", **SHORT))
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(MediaError, match="does not exist"):
        tiny_engine.open_session(tmp_path / "s.zip")
    assert tiny_engine.open_session(tmp_path / "s.zip", media=moved).num_frames == 4


def test_a_source_that_has_changed_is_noticed(tiny_engine: Engine, folder: Path, tmp_path: Path) -> None:
    tiny_engine.open(folder, num_frames=4).save(tmp_path / "s.zip", frames=False)
    Image.fromarray(np.zeros((90, 120, 3), np.uint8)).save(folder / "0.png")
    with pytest.raises(MediaError, match="its frames have changed"):
        tiny_engine.open_session(tmp_path / "s.zip")
    for path in sorted(folder.iterdir())[5:]:
        path.unlink()
    with pytest.raises(MediaError, match="has 5 frames, but the session uses frame 11"):
        tiny_engine.open_session(tmp_path / "s.zip")


def test_frames_without_a_file_must_go_into_the_session(tiny_engine: Engine, clip: Clips, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="save them with frames=True"):
        tiny_engine.open(open_media(clip(2))).save(tmp_path / "s.zip", frames=False)
    assert not list(tmp_path.iterdir())


def test_a_session_of_another_model_is_refused(tiny_engine: Engine, clip: Clips, tmp_path: Path) -> None:
    tiny_engine.open(clip(1)).save(tmp_path / "s.zip")
    other = copy.deepcopy(tiny_engine.model)
    with torch.no_grad():
        other.seg_head[1].bias += 1
    with pytest.raises(CheckpointError, match="saved with another model"):
        Engine(other, tiny_engine.processor).open_session(tmp_path / "s.zip")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"{}"])
def test_files_that_are_no_sessions_are_refused(tiny_engine: Engine, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.zip").write_bytes(content)
    with pytest.raises(MediaError, match="is not a session file"):
        tiny_engine.open_session(tmp_path / "s.zip")
    with pytest.raises(MediaError, match="cannot be read"):
        tiny_engine.open_session(tmp_path / "absent.zip")


def edited(source: Path, target: Path, change: Callable[[dict], None]) -> Path:
    """A copy of a session with another record."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "session.json":
                record = json.loads(data)
                change(record)
                data = json.dumps(record).encode()
            new.writestr(name, data)
    return target


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(format=99),
        lambda r: r.pop("clip"),
        lambda r: r.update(objects=3),
        lambda r: r["objects"][0]["track"].update(rles=[]),
        lambda r: r["objects"][0]["track"].update(size=[3, 3]),
        lambda r: r["objects"][0].update(frame_scores=[1]),
        lambda r: r["objects"][0]["anchors"][0].update(frame=77),
        lambda r: r["dialogue"].update(ids=[10**9]),
        lambda r: r["dialogue"].update(frames=[0] * 5),
        lambda r: r["clip"].update(frame_indices=[]),
        lambda r: r["clip"].update(frame_indices=[0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_edited_sessions_are_refused_with_a_sentence(
    tiny_engine: Engine, clip: Clips, tmp_path: Path, change: Callable[[dict], None]
) -> None:
    session = tiny_engine.open(clip(2))
    session.segment(Mask(np.ones((90, 120), bool)))
    session.save(tmp_path / "s.zip")
    edited(tmp_path / "s.zip", tmp_path / "t.zip", lambda record: None)
    assert tiny_engine.open_session(tmp_path / "t.zip").num_frames == 2
    with pytest.raises(MediaError, match="session"):
        tiny_engine.open_session(edited(tmp_path / "s.zip", tmp_path / "u.zip", change))


def test_a_reply_that_holds_input_markup_can_be_gone_on_from(tiny_engine: Engine, clip: Clips, tmp_path: Path) -> None:
    markup = tiny_engine.model.config.ref_token_id
    for seed in range(200):  # a nearly even choice among all tokens; one reply will hold the one wanted
        live = tiny_engine.open(clip(2))
        answer = live.ask("What is this?", prompts=Point(9, 9), temperature=1e4, seed=seed, max_new_tokens=48)
        if markup in answer.tokens:
            break
    else:
        pytest.fail("no reply held <|ref|>")
    live.save(tmp_path / "session.zip")
    restored = tiny_engine.open_session(tmp_path / "session.zip")
    assert_same(*[s.ask("What colour is [1]?", **SHORT) for s in (restored, live)])
