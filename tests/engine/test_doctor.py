"""The doctor: what a checkpoint is and what is wrong with it, from its small files and the headers of its weights."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.hf_api
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import unipixel
from unipixel.bench.scene import build_random_engine
from unipixel.cli import app
from unipixel.engine.doctor import examine
from unipixel.errors import CheckpointError
from unipixel.model.presets import TINY_SAM
from unipixel.model.weights import load_model, save_model

Find = Callable[[str], Path]
WIDTH = {"BF16": 2, "F32": 4}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of our own in several shards."""
    folder = tmp_path_factory.mktemp("sound") / "model"
    engine = build_random_engine(TINY_SAM)
    save_model(engine.model, folder, max_shard_size="6MB")
    engine.processor.save(folder)
    return folder


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def told(*arguments: object, code: int) -> dict[str, Any]:
    result = doctor(*arguments, "--json")
    assert result.exit_code == code, result.output
    return dict(json.loads(result.stdout))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_sound_folder_is_recognised_and_can_be_loaded(sound: Path) -> None:
    found = told(sound, code=0)
    assert (found["form"], found["usable"], found["problems"]) == ("full", True, [])
    assert found["missing"] == found["unexpected"] == found["misshapen"] == []
    model = load_model(sound)
    assert found["bytes_on_disk"] == sum(path.stat().st_size for path in shards(sound))
    assert found["memory"]["float32"]["weights"] == round(4 * found["parameters"] / 1e9, 3)
    assert found["parameters"] >= sum(p.numel() for p in model.parameters())
    text = doctor(sound)
    assert text.exit_code == 0 and "It can be loaded." in text.stdout and "bfloat16" in text.stdout


def test_nano_is_recognised() -> None:
    found = told("nano", code=0)
    assert found["size"] == "nano" and found["problems"] == []


@pytest.mark.parametrize("name", ["tiny_tied", "tiny_untied"])
def test_released_tiny_folders_have_no_problem(name: str, released_file: Find) -> None:
    found = told(released_file(name), code=0)
    assert found["form"] == "full" and found["problems"] == []
    assert ("untied" in found["facts"]["word embeddings"]) == (name == "tiny_untied")
    assert not any("transformers" in line for line in found["differences"])


def drop_shard(folder: Path) -> None:
    shards(folder)[0].unlink()


def cut_shard(folder: Path) -> None:
    with shards(folder)[-1].open("r+b") as file:
        file.truncate(shards(folder)[-1].stat().st_size - 1000)


def empty_shard(folder: Path) -> None:
    shards(folder)[0].write_bytes(b"")


def leave_pointer(folder: Path) -> None:
    shards(folder)[0].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def drop_tensor(folder: Path) -> None:
    for path in shards(folder):
        tensors = load_file(path)
        if tensors.pop("seg_head.1.bias", None) is not None:
            save_file(tensors, path)
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    places.pop("seg_head.1.bias")
    edit(index, weight_map=places)


def reshape_tensor(folder: Path) -> None:
    for path in shards(folder):
        tensors = load_file(path)
        if "seg_head.1.bias" in tensors:
            save_file({**tensors, "seg_head.1.bias": tensors["seg_head.1.bias"][:-1]}, path)


def swap_ids(folder: Path) -> None:
    tree = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", ref_token_id=tree["seg_token_id"], seg_token_id=tree["ref_token_id"])


def shrink_vocabulary(folder: Path) -> None:
    tree = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", vocab_size=60, text_config=tree["text_config"] | {"vocab_size": 60})


def name_other_end(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=[1, 2])


DAMAGE = [
    (drop_shard, r"the shard model-00001-of-\d+\.safetensors is missing, with \d+ tensors"),
    (cut_shard, r"is cut off: [\d,]+ bytes of [\d,]+"),
    (empty_shard, "is not a complete safetensors file: it has no header"),
    (leave_pointer, "git lfs pull"),
    (drop_tensor, r"1 tensors are missing: seg_head\.1\.bias"),
    (reshape_tensor, r"1 tensors have another shape: seg_head\.1\.bias is \[\d+\], expected \[\d+\]"),
    (swap_ids, r"<\|ref\|> is number \d+ in the tokenizer and \d+ in config\.json"),
    (shrink_vocabulary, r"the tokenizer has \d+ entries, the model's vocabulary 60"),
    (name_other_end, r"<\|im_end\|> is number \d+, and replies end at 1, 2 only"),
    (lambda f: (f / "tokenizer.json").write_text("{}"), "not the file of a byte-level BPE tokenizer"),
    (lambda f: (f / "preprocessor_config.json").unlink(), r"preprocessor_config\.json cannot be read"),
    (lambda f: (f / "config.json").unlink(), r"config\.json cannot be read"),
    (lambda f: edit(f / "config.json", model_type="llama"), "model_type in config.json is 'llama'"),
    (lambda f: edit(f / "config.json", image_token_id="x"), "a field is malformed"),
    (lambda f: [path.unlink() for path in (*shards(f), f / "model.safetensors.index.json")], "there are no weights"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGE)
def test_the_doctor_names_a_damage_and_the_failed_load_points_to_it(copy: Path, damage: Any, words: str) -> None:
    damage(copy)
    found = told(copy, code=2)
    assert any(re.search(words, line) for line in found["problems"]), found["problems"]
    assert not found["usable"]
    with pytest.raises(CheckpointError, match=f"unipixel doctor {copy}"):
        unipixel.load(copy, device="cpu")


def test_an_unexpected_tensor_is_named_and_no_problem(copy: Path) -> None:
    path = shards(copy)[0]
    tensors = load_file(path)
    save_file({**tensors, "audio.weight": tensors["visual.patch_embed.proj.weight"][:1].clone()}, path)
    assert told(copy, code=0)["unexpected"] == ["audio.weight"]


def test_no_such_folder_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    result = doctor(tmp_path / "nothing")
    assert result.exit_code == 2 and result.stdout == ""


@pytest.mark.parametrize("name", ["stages/stage1", "stages/stage2", "stages/stage3_adapter"])
def test_parts_are_looked_at_with_their_base(name: str, released_file: Find) -> None:
    zoo = released_file("stages/base/model_zoo")
    qwen = next((path.parent for path in sorted(zoo.glob("*/config.json"))), None)
    if qwen is None:
        pytest.skip("stages/base holds no Qwen2.5-VL")
    found = told(released_file(name), "--base", qwen, code=2)
    assert found["form"] == ("adapter" if name.endswith("adapter") else "stage output")
    assert found["unexpected"] == []
    buffers = {"tem_pe.positional_encoding_gaussian_matrix", "ref_encoder.pe_layer.positional_encoding_gaussian_matrix"}
    assert buffers <= set(found["missing"])
    assert any("fresh=True" in line for line in found["problems"])
    whole = told(released_file(name), "--base", released_file("tiny_tied"), code=0)
    assert whole["missing"] == [] and "full" in whole["facts"]["base"]


def write_sparse(path: Path, rows: list[list[Any]]) -> None:
    """A safetensors file with a real header and the right length, whose tensors take no room on the disk."""
    header, end = {}, 0
    for name, dtype, shape in rows:
        size = WIDTH[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def sparse(released_file: Find, name: str, folder: Path) -> Path:
    """A released size with headers and holes, and a tokenizer's added tokens alone."""
    shutil.copytree(released_file(name), folder)
    for file, rows in json.loads(released_file(f"{name}/tensors.json").read_text())["files"].items():
        write_sparse(folder / file, rows)
    return folder


@pytest.mark.parametrize("name", ["unipixel_3b", "unipixel_7b"])
def test_the_released_sizes_are_recognised_by_headers_alone(name: str, released_file: Find, tmp_path: Path) -> None:
    found = told(released_file(name), code=2)
    index = json.loads(released_file(f"{name}/model.safetensors.index.json").read_text())
    assert len(found["promised"]) == len(index["weight_map"])
    absent = set(index["weight_map"].values())
    assert all(any(shard in line for line in found["problems"]) for shard in absent)
    folder = sparse(released_file, name, tmp_path / "full")
    found = told(folder, code=2)
    assert found["size"] == f"UniPixel-{name[-2:].upper()}" and found["form"] == "full"
    assert found["missing"] == found["unexpected"] == found["misshapen"] == found["promised"] == []
    assert 2 * found["parameters"] == index["metadata"]["total_size"]
    # what is left out of this material is the tokenizer, and nothing else stands against loading it
    assert len(found["problems"]) == 1 and "has no tokenizer" in found["problems"][0]
    assert found["memory"]["bfloat16"]["weights"] == round(index["metadata"]["total_size"] / 1e9, 3)
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    with shard.open("r+b") as file:
        file.truncate(1_000_000)
    edit(folder / "config.json", ref_token_id=5)
    result = doctor(folder)
    assert result.exit_code == 2 and "It cannot be loaded as it is." in result.stdout
    assert "is cut off" in result.stdout and "<|ref|> is number" in result.stdout


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's HTTP interface as one model needs; counts the bytes of weights that it hands out."""

    folder: Path
    sent = 0
    commit = "a" * 40

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/some/model/tree/"):
            files = [(p.name, p.stat().st_size) for p in sorted(self.folder.iterdir())]
            entries = [{"type": "file", "path": name, "size": size, "oid": name} for name, size in files]
            self._answer(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
            return
        if path.startswith("/api/models/some/model"):
            siblings = [{"rfilename": p.name, "size": p.stat().st_size} for p in sorted(self.folder.iterdir())]
            body = json.dumps({"id": "some/model", "sha": self.commit, "siblings": siblings}).encode()
            self._answer(200, body, {"Content-Type": "application/json"})
            return
        file = self.folder / path.rsplit("/", 1)[-1]
        if not file.is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        size, first, last, code = file.stat().st_size, 0, file.stat().st_size - 1, 200
        headers = {"ETag": f'"{file.name}"', "X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        if match := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last, code = int(match[1]), min(int(match[2] or last), last), 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        with file.open("rb") as opened:
            opened.seek(first)
            body = opened.read(last - first + 1)
        if file.suffix == ".safetensors" and self.command == "GET":
            type(self).sent += len(body)
        self._answer(code, body, headers)

    def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A Hub on this machine with the sound folder as ``some/model``."""
    handler = type("OneModel", (Hub,), {"folder": sound, "sent": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for name, value in {"ENDPOINT": endpoint, "HF_HUB_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(huggingface_hub.hf_api, "api", huggingface_hub.HfApi(endpoint=endpoint), raising=False)
    yield handler
    server.shutdown()
    thread.join()


def test_of_a_hub_model_only_headers_and_small_files_are_fetched(hub: type[Hub], sound: Path) -> None:
    there = examine("some/model")
    here = examine(sound)
    assert there.is_usable and there.form == "full"
    assert (there.parameters, there.bytes_on_disk, there.missing) == (here.parameters, here.bytes_on_disk, [])
    assert there.facts == here.facts
    assert 0 < hub.sent < 0.2 * here.bytes_on_disk
    with pytest.raises(CheckpointError, match="cannot be looked at on the Hub"):
        examine("some/other")
