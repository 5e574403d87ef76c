"""What the Label Studio backend refuses, where it fetches files, how it counts frames, and what its polygons are."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import EXAMPLES, Live, data_url, running
from typer.testing import CliRunner

from unipixel.cli import app
from unipixel.engine.engine import Engine
from unipixel.engine.memory import KnownObject
from unipixel.errors import MediaError
from unipixel.masks import MaskTrack, mask_to_polygons, polygons_to_mask, simplify_polygons
from unipixel.media import open_media
from unipixel.serve.label_studio.config import LabelConfig
from unipixel.serve.label_studio.media import get_authorization, resolve_address
from unipixel.serve.label_studio.prompts import MAX_TRACKED_FRAMES, Timeline, build_sequence, select_clip

CONFIG = """<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">
<Label value="dog" alias="d" hint="the spotted dog"/><Label value="cat"/></BrushLabels></View>"""
VIDEO = """<View><Video name="v" value="$video" frameRate="FPS"/><VideoRectangle name="b" toName="v"/>
<Labels name="l" toName="v"><Label value="dog"/></Labels></View>"""
MANY = "".join(f'<Label value="{number}"/>' for number in range(70))
PNG = (EXAMPLES / "picture.png").read_bytes()


def body(config: str = CONFIG, drawn: list[dict[str, Any]] | None = None, **data: Any) -> dict[str, Any]:
    data = data or {"image": data_url(EXAMPLES / "picture.png")}
    return {"tasks": [{"id": 1, "data": data}], "label_config": config, "params": {"context": {"result": drawn or []}}}


def drawn(kind: str, label: str = "cat", size: int = 336, **value: Any) -> list[dict[str, Any]]:
    value = {kind: [label], **value}
    return [{"id": "a", "type": kind, "value": value, "original_width": size, "original_height": size}]


CLIP = {"video": data_url(EXAMPLES / "clip.mp4", "video/mp4")}
BOX = [{"id": "a", "type": "videorectangle", "value": {"sequence": [], "labels": ["dog"]}}]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (body("<View"), "is no XML"),
        (body('<!DOCTYPE a [<!ENTITY b "c">]><View/>'), "declares a document type"),
        (body("<View/>"), "shows no <Image> or <Video>"),
        (body('<View><Image name="i" value="x"/></View>'), "must be one key of the task's data"),
        (body('<View><Image name="i" value="$image"/><Choices name="c" toName="i"/></View>'), "no control draws"),
        (body(CONFIG.replace("brush", "b").replace('toName="image"', 'toName="other"')), "no control draws"),
        (body(CONFIG.replace('<Label value="cat"/>', MANY)), "at most 64"),
        (body(picture="x"), "have no 'image'"),
        (body(image=["a", "b"]), "must be one address"),
        (body(image="s3://bucket/a.png"), "in a cloud storage"),
        (body(image="/data/local-files/?d=a.png"), "on Label Studio's own disk"),
        (body(image="/tasks/1/resolve/?fileuri=abc"), "leads to a cloud storage"),
        (body(image="/data/upload/1/a.png"), "start it with LABEL_STUDIO_URL"),
        (body(image="/etc/passwd"), "is no address"),
        (body(image="//evil.example/data/upload/a.png"), "is no address"),
        (body(image="file:///etc/passwd"), "is no address"),
        (body(image="http://127.0.0.1:1/a.png"), "not on the public internet"),
        (body(image=CLIP["video"]), "is a video; the labelling configuration shows a still picture"),
        (body(VIDEO.replace("FPS", "24"), video=data_url(EXAMPLES / "picture.png")), "is a still picture"),
        (body(VIDEO.replace("FPS", "$fps"), **CLIP, fps="fast"), "frameRate is 'fast'"),
        (body(VIDEO.replace("FPS", "24"), BOX, **CLIP), "sequence: List should have at least 1 item"),
        (body(VIDEO.replace("FPS", "24"), drawn("keypointlabels", x=1, y=1), **CLIP), "no prompt on a video"),
        (body(drawn=drawn("keypointlabels", x=101, y=1)), "outside of the picture"),
        (body(drawn=drawn("keypointlabels", x="a", y=1)), "x: Input should be a valid number"),
        (body(drawn=drawn("keypointlabels", "bird", x=1, y=1)), "choose one of d, cat"),
        (body(drawn=drawn("ellipselabels", x=1, y=1)), "is no prompt for the model"),
        (body(drawn=drawn("rectanglelabels", x=120, y=1, width=5, height=5)), "no area inside"),
        (body(drawn=drawn("brushlabels", format="rle", rle=[1])), "holds 0 values"),
        (body(drawn=drawn("brushlabels", size=10, format="rle", rle=[1])), "a picture of 10 x 10"),
        (body(drawn=[{**drawn("keypointlabels", x=1, y=1)[0], "is_positive": False}]), "only clicks beside"),
        (body(drawn=[{"type": "textarea", "value": {"text": [" "]}}]), "is empty"),
        (body(drawn=[{"type": "textarea", "value": {"text": "<|seg|>"}}]), "<|seg|>"),
        ({**body(), "tasks": []}, "at least 1 item"),
        ({**body(drawn=drawn("keypointlabels", x=1, y=1)), "tasks": body()["tasks"] * 2}, "one drawing"),
    ],
)
def test_what_cannot_be_used_is_refused_with_one_sentence(quick: Live, given: dict[str, Any], words: str) -> None:
    message = quick.post("/predict", given, 400)["error"]["message"]
    assert words in message and "\n" not in message
    assert quick.get("/health")["status"] == "UP"


def test_setup_takes_a_blank_configuration_and_refuses_one_without_use(quick: Live) -> None:
    assert quick.post("/setup", {"project": "1.2", "schema": ""})["model_version"]
    assert (
        "no control draws"
        in quick.post("/setup", {"schema": '<View><Image name="i" value="$i"/></View>'}, 400)["error"]["message"]
    )


def test_labels_are_asked_for_by_their_hints_and_written_by_their_aliases() -> None:
    assert dict(LabelConfig(CONFIG).queries) == {"d": "the spotted dog", "cat": "cat"}


def test_controls_for_prompting_get_no_regions_unless_there_are_no_others() -> None:
    smart = CONFIG.replace('name="brush"', 'name="brush" smart="true"')
    assert [name for _, name, _ in LabelConfig(smart).controls] == ["brush"]
    both = smart.replace(
        "</View>", '<RectangleLabels name="r" toName="image"><Label value="x"/></RectangleLabels></View>'
    )
    assert [name for _, name, _ in LabelConfig(both).controls] == ["r"]


Requests = list[tuple[str, str]]
"""Paths that were asked for, with what was shown."""


@contextmanager
def label_studio(seen: Requests, to: str = "") -> Iterator[str]:
    """A server that gives uploaded files to who shows the key, exchanges tokens, and redirects."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown = self.headers.get("Authorization", "")
            seen.append((self.path, shown))
            if self.path.startswith("/data/upload/away"):
                self.answer(302, b"", Location=to)
            elif shown in ("Token secret", "Bearer fresh"):
                self.answer(200, PNG)
            else:
                self.answer(401, b"")

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, given["refresh"]))
            self.answer(200, b'{"access": "fresh"}') if given["refresh"] == "a.b.c" else self.answer(401, b"")

        def answer(self, status: int, content: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("key", "shown"), [("secret", "Token secret"), ("a.b.c", "Bearer fresh")])
def test_uploaded_files_come_from_label_studio_in_a_private_network(quick_engine: Engine, key: str, shown: str) -> None:
    seen: Requests = []
    with label_studio(seen) as home, running(quick_engine, label_studio_url=home, label_studio_key=key) as live:
        for image in ("/data/upload/1/a.png", f"{home}/data/upload/1/a.png"):
            live.post("/predict", body(image=image))
            assert seen[-1] == ("/data/upload/1/a.png", shown)
        before = len(seen)
        for image in (f"{home}/api/users", f"{home}/data/upload/../../api/users", f"{home}/data/upload/%2e%2e/x"):
            assert "not on the public internet" in live.post("/predict", body(image=image), 400)["error"]["message"]
        assert len(seen) == before


def test_key_is_shown_to_nobody_else(quick_engine: Engine) -> None:
    seen: Requests = []
    others: Requests = []
    with label_studio(others) as other, label_studio(seen, f"{other}/a.png") as home:
        with running(quick_engine, label_studio_url=home, label_studio_key="secret") as live:
            message = live.post("/predict", body(image="/data/upload/away.png"), 400)["error"]["message"]
            assert "not on the public internet" in message and others == []
        with running(quick_engine, label_studio_url=home, label_studio_key="secret", private_urls=True) as live:
            live.post("/predict", body(image="/data/upload/away.png"), 400)
            assert others == [("/a.png", "")]
        with pytest.raises(MediaError, match="does not take LABEL_STUDIO_API_KEY"):
            get_authorization(home, "x.y.z", 5.0)


@pytest.mark.parametrize("url", ["ftp://host", "http://user@host", "http://host/?a=1", "host:8080"])
def test_wrong_address_of_label_studio_ends_the_command_with_one_sentence(url: str) -> None:
    result = CliRunner().invoke(app, ["serve", "--port", "0", "--no-state"], env={"LABEL_STUDIO_URL": url})
    assert result.exit_code == 2 and "LABEL_STUDIO_URL is" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_addresses_are_left_alone_where_they_say_everything() -> None:
    assert resolve_address("https://example.org/resolve/", "http://ls:8080") == "https://example.org/resolve/"
    assert resolve_address("/data/upload/1/a.png", "http://ls:8080/tool/") == "http://ls:8080/tool/data/upload/1/a.png"


def test_boxes_end_where_an_object_disappears() -> None:
    masks = np.zeros((6, 10, 20), dtype=bool)
    masks[[0, 1, 3, 5], 2:4, 5:10] = True
    track = MaskTrack.from_masks(masks)
    one = KnownObject(id=1, label="", track=track, frame_scores=(1.0,) * 6)
    times = tuple(t / 10 for t in range(6))
    value = build_sequence(one, Timeline(times, 0.6, 10.0))
    assert (value["framesCount"], value["duration"]) == (6, 0.6)
    assert [(key["frame"], key["enabled"]) for key in value["sequence"]] == [
        (1, True),
        (2, False),
        (4, False),
        (6, True),
    ]
    assert value["sequence"][0] == {
        "x": 25,
        "y": 20,
        "width": 25,
        "height": 20,
        "rotation": 0,
        "frame": 1,
        "time": 0,
        "enabled": True,
    }


def test_frames_are_counted_at_label_studios_rate() -> None:
    line = Timeline(tuple(t / 30 for t in range(60)), 2.0, 24.0)
    assert (line.frames_count, line.to_number(0), line.to_number(30), line.to_number(59)) == (48, 1, 25, 48)
    assert line.find_nearest(1) == 0 and line.find_nearest(25) == 30 and line.find_nearest(10_000) == 59
    told = line.apply_counts(100, 4.0)
    assert (told.frames_count, told.duration, told.rate) == (100, 4.0, 25.0)
    assert line.apply_counts(0, 0) is line


def test_long_videos_are_followed_on_evenly_spread_frames(media: Path) -> None:
    video = open_media(str(media / "long.mp4"))
    assert video.num_frames > MAX_TRACKED_FRAMES
    clip = select_clip(video, 1024)
    assert clip.num_frames <= MAX_TRACKED_FRAMES and clip.frame_indices[:3] == (0, 2, 4)
    assert select_clip(video, 10).num_frames <= 10
    short = open_media(str(media / "clip.mp4"))
    assert select_clip(short, 1024) is short


def test_polygons_have_few_corners_and_lose_specks_only() -> None:
    rows, columns = np.indices((200, 200))
    mask = (rows - 90) ** 2 + (columns - 100) ** 2 < 60**2
    mask[5, 5] = True
    traced = mask_to_polygons(mask)
    (ring,) = simplify_polygons(traced)
    assert len(ring) < len(traced[-1]) / 2 / 4
    drawn = polygons_to_mask([ring], mask.shape)
    mask[5, 5] = False
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.98
    speck = np.zeros((8, 8), dtype=bool)
    speck[3, 3] = True
    (left,) = simplify_polygons(mask_to_polygons(speck))
    assert (polygons_to_mask([left], speck.shape) == speck).all()
