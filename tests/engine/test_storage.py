"""Sessions in files: a restored session is the live one, and files that are no sessions are refused."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from unipixel.engine.answer import Answer
from unipixel.engine.engine import Engine
from unipixel.engine.session import Session
from unipixel.errors import CheckpointError, MediaError
from unipixel.masks import MaskTrack
from unipixel.media import open_media
from unipixel.processing import Processor
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


def build_covering(engine: Engine) -> Engine:
    """The same weights; an object in memory is what its mask covers."""
    processor = engine.processor
    return Engine(engine.model, Processor(processor.tokenizer, replace(processor.settings, region_rule="covered")))


def test_a_session_keeps_how_much_of_each_cell_an_object_covers(
    tiny_engine: Engine, clip: Clips, tmp_path: Path
) -> None:
    engine = build_covering(tiny_engine)
    live = used(engine, clip(4))
    live.ask("What colour is [1]?", **SHORT)
    live.save(tmp_path / "session.zip")
    tensors = load_tensors(unpack(tmp_path / "session.zip")["tensors.safetensors"])
    (weights,) = (tensor for name, tensor in tensors.items() if "regions/" in name)
    assert weights.is_floating_point()
    assert 0 < weights[weights > 0].min() < weights.max() <= 1
    restored = engine.open_session(tmp_path / "session.zip")
    for question in ("What is [1]?", "Please segment the ball."):
        assert_same(restored.ask(question, **SHORT), live.ask(question, **SHORT))
    with pytest.raises((CheckpointError, MediaError)):
        tiny_engine.open_session(tmp_path / "session.zip")


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
    entries = unpack(source)
    record = json.loads(entries["session.json"])
    change(record)
    return pack(target, {**entries, "session.json": json.dumps(record).encode()})


def unpack(source: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(source) as file:
        return {name: file.read(name) for name in file.namelist()}


def pack(target: Path, entries: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", kind) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return target


def assert_refused(engine: Engine, path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        engine.open_session(path)
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)


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


@pytest.fixture(scope="module")
def whole(tiny_engine: Engine, clip: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session that holds one of everything: objects 1 (words), 2 (a point, corrected), 3 (a mask), and a dialogue."""
    path = tmp_path_factory.mktemp("whole") / "s.zip"
    session = tiny_engine.open(clip(3))
    session.segment(Point(30, 30), force=True)
    session.correct(1, [Point(50, 40, frame=2), Point(5, 5, frame=2, positive=False)])
    session.segment(Mask(np.ones((90, 120), bool)))
    session.ask("What is [2]?", prompts=Box(5, 5, 60, 60), force=True, **SHORT)
    session.save(path)
    assert tiny_engine.open_session(edited(path, path.with_name("same.zip"), lambda record: None)).objects
    return path


def edit_object(**fields: object) -> Callable[[dict], None]:
    return lambda record: record["objects"][0].update(fields)


def edit_prompt(**fields: object) -> Callable[[dict], None]:
    return lambda record: record["objects"][0]["prompts"][0].update(fields)


def edit_clip(**fields: object) -> Callable[[dict], None]:
    return lambda record: record["clip"].update(fields)


def edit_dialogue(**fields: object) -> Callable[[dict], None]:
    return lambda record: record["dialogue"].update(fields)


BOX = {"box": [1, 1, 9, 9], "frame": 0, "object_id": None}


@pytest.mark.parametrize(
    "change",
    [
        edit_object(frame_scores=[float("nan")] * 3),
        edit_object(frame_scores=[10**400] * 3),
        edit_object(frame_scores=[2.0, 0.5, 0.5]),
        edit_object(frame_scores=["0.5"] * 3),
        edit_object(id=0),
        edit_object(id=2),
        edit_object(id=True),
        edit_object(id="1"),
        edit_object(label=7),
        edit_object(label="\ud800"),
        edit_object(prompts={}),
        edit_object(prompts=[BOX, BOX]),
        edit_object(anchors=[{"frame": 0, "mask": None}] * 2),
        edit_object(anchors=[{"frame": 1.0, "mask": None}]),
        edit_object(anchors=[{"frame": 0, "mask": {"size": [9, 9], "counts": "i20"}}]),
        edit_prompt(object_id=2),
        edit_prompt(object_id=1.0),
        edit_prompt(frame=3),
        edit_prompt(frame=-1),
        edit_prompt(point=[float("inf"), 3]),
        edit_prompt(point=[500, 3]),
        edit_prompt(point=[3]),
        edit_prompt(positive=1),
        edit_clip(fps=0),
        edit_clip(fps=float("nan")),
        edit_clip(fps="2"),
        edit_clip(source=None),
        edit_clip(size_hw=[90]),
        edit_clip(size_hw=[2**40, 2**40]),
        edit_clip(frame_indices=[2, 1, 0]),
        edit_clip(frame_indices=[0, 1, 10**30]),
        edit_clip(frame_indices=[0, 1]),
        edit_clip(path="http://127.0.0.1:9/x.png"),
        edit_clip(path=[]),
        edit_dialogue(unread=[-1]),
        edit_dialogue(unread=[0] * 5000),
        edit_dialogue(num_regions=0),
        edit_dialogue(num_regions=10**12),
        edit_dialogue(num_regions=True),
        edit_dialogue(frames=[3]),
        edit_dialogue(ids=[1.5]),
        lambda r: r["dialogue"]["ids"].append(-1),  # stands for no input
        lambda r: r["dialogue"]["ids"].extend([1] * 5000),
        lambda r: r.update(num_frames=0),
        lambda r: r.update(num_frames=True),
        lambda r: r.update(feature_frames=1.5),
        lambda r: r.update(next_id=1),
        lambda r: r.update(next_id=10**30),
        lambda r: r.update(format=True),
        lambda r: r["objects"].append(r["objects"][0]),
    ],
)
def test_every_field_of_a_session_is_checked_when_it_is_opened(
    tiny_engine: Engine, whole: Path, tmp_path: Path, change: Callable[[dict], None]
) -> None:
    assert_refused(tiny_engine, edited(whole, tmp_path / "t.zip", change))


@pytest.mark.parametrize("token", ["video_token_id", "image_token_id", "mem_token_id", "ref_token_id"])
def test_tokens_of_inputs_that_are_not_there_are_refused(
    tiny_engine: Engine, whole: Path, tmp_path: Path, token: str
) -> None:
    number = getattr(tiny_engine.model.config, token)
    assert_refused(tiny_engine, edited(whole, tmp_path / "t.zip", lambda r: r["dialogue"]["ids"].append(number)))


TensorEdit = Callable[[torch.Tensor], torch.Tensor | None]


@pytest.mark.parametrize(
    ("end", "change"),
    [
        ("queries", lambda t: t * float("nan")),
        ("queries", lambda t: t[:1]),
        ("queries", lambda t: t.long()),
        ("coords", lambda t: t[:0]),
        ("coords", lambda t: t + 1e9),
        ("coords", lambda t: t.double()),
        ("coords", lambda t: t.repeat(3000, 1)),
        ("labels", lambda t: t + 9),
        ("labels", lambda t: t[None]),
        ("labels", lambda t: t.int()),
        ("labels", lambda t: None),
        ("regions/0", lambda t: t[:, :, :1]),
        ("regions/0", lambda t: t[:, :0]),
        ("regions/0", lambda t: t * 0),
        ("regions/0", lambda t: t * 7),
        ("regions/0", lambda t: t.float()),
        ("regions/0", lambda t: torch.ones_like(t).repeat(1, 3, 1, 1)),
    ],
)
def test_every_tensor_of_a_session_is_checked_when_it_is_opened(
    tiny_engine: Engine, whole: Path, tmp_path: Path, end: str, change: TensorEdit
) -> None:
    entries = unpack(whole)
    tensors = load_tensors(entries["tensors.safetensors"])
    names = [name for name in tensors if name.endswith(end)]
    for name in names:
        made = change(tensors.pop(name))
        if made is not None:
            tensors[name] = made.contiguous()
    assert names
    assert_refused(tiny_engine, pack(tmp_path / "t.zip", {**entries, "tensors.safetensors": save_tensors(tensors)}))


def test_a_tensor_that_belongs_to_nothing_is_refused(tiny_engine: Engine, whole: Path, tmp_path: Path) -> None:
    entries = unpack(whole)
    tensors = {**load_tensors(entries["tensors.safetensors"]), "objects/9/0/queries": torch.ones(2)}
    assert_refused(tiny_engine, pack(tmp_path / "t.zip", {**entries, "tensors.safetensors": save_tensors(tensors)}))


def draw_frame(width: int = 120) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((90, width, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    "entries",
    [
        {"../../evil": b"x"},
        {"/evil": b"x"},
        {"frames/000003.png": draw_frame()},
        {"frames/000001.png": draw_frame(121)},
        {"frames/000001.png": draw_frame()[:60]},
        {"frames/000001.png": b""},
        {"session.json": b"[" * 100_000},
        {"session.json": b" " * (40 << 20) + b"{}"},
        {"session.json": b"[]"},
        {"session.json": b"\xff"},
        {"tensors.safetensors": b""},
        {"tensors.safetensors": bytes(8) + b"{}"},
        {"tensors.safetensors": bytes(40 << 20)},
    ],
)
def test_a_session_with_foreign_entries_is_refused(
    tiny_engine: Engine, whole: Path, tmp_path: Path, entries: dict[str, bytes]
) -> None:
    assert_refused(tiny_engine, pack(tmp_path / "t.zip", unpack(whole) | entries))


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_session_is_packed_by_deflate_alone(tiny_engine: Engine, whole: Path, tmp_path: Path, kind: int) -> None:
    assert_refused(tiny_engine, pack(tmp_path / "t.zip", unpack(whole), kind))


@pytest.mark.parametrize("gone", ["session.json", "tensors.safetensors", "frames/000002.png"])
def test_a_session_without_one_of_its_entries_is_refused(
    tiny_engine: Engine, whole: Path, tmp_path: Path, gone: str
) -> None:
    entries = unpack(whole)
    del entries[gone]
    assert_refused(tiny_engine, pack(tmp_path / "t.zip", entries))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tiny_engine: Engine, whole: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "t.zip", unpack(whole))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("session.json", unpack(whole)["session.json"])
    assert_refused(tiny_engine, path)


def test_sizes_that_lie_are_refused(tiny_engine: Engine, whole: Path, tmp_path: Path) -> None:
    data = pack(tmp_path / "t.zip", unpack(whole)).read_bytes()
    place = data.index(b"PK\x01\x02")
    for offset, size in ((20, 1), (24, 1), (24, 2**31)):  # packed, unpacked
        (tmp_path / "u.zip").write_bytes(
            data[: place + offset] + size.to_bytes(4, "little") + data[place + offset + 4 :]
        )
        assert_refused(tiny_engine, tmp_path / "u.zip")


def test_a_session_of_well_packed_things_can_be_opened_again(
    tiny_engine: Engine, clip: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unipixel.engine.storage.SMALL_BYTES", 1000)
    session = tiny_engine.open(clip(2))
    session.add_object(1, MaskTrack((90, 120), (None, None)), "never there " * 2000)
    session.save(tmp_path / "s.zip")
    assert tiny_engine.open_session(tmp_path / "s.zip").objects.keys() == {1}
