"""Folders that both this package and the Auto classes of `transformers` load, with a model card, here or on the Hub.

Such a folder is a checkpoint in the layout of the released ones. What is added: ``auto_map`` in ``config.json`` and
``processor_config.json``, which names the classes of `unipixel.hub`, and ``unipixel_hub.py``, a module of a few lines
that imports them from the package, because the Auto classes import nothing but modules of the folder.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import torch

from unipixel import __version__
from unipixel.atomic import write_text
from unipixel.errors import CheckpointError
from unipixel.model.tensor_files import StoredTensor, read_json
from unipixel.model.tensor_names import build_disk_layout
from unipixel.model.unipixel import UniPixel
from unipixel.model.weights import (
    build_empty_model,
    fill_model,
    read_checkpoint,
    resolve_checkpoint,
    save_model,
)
from unipixel.processing import Processor

MODULE = "unipixel_hub"
CARD = "README.md"
TASK = "image-text-to-text"
"""The task of `transformers.pipeline` that fits best: the answer is a text, and here has masks as well."""
_CLASSES = {
    "AutoConfig": "UniPixelHubConfig",
    "AutoModel": "UniPixelForConditionalGeneration",
    "AutoModelForImageTextToText": "UniPixelForConditionalGeneration",
    "AutoProcessor": "UniPixelProcessor",
    "pipeline": "UniPixelPipeline",
}
_SOURCE = '''"""Classes for transformers' Auto classes. They are part of the package unipixel {version} or newer."""

from unipixel.hub import (
{names}
)

__all__ = [{exported}]
'''
_CARD = """# {title}

A checkpoint of [UniPixel](https://arxiv.org/abs/2509.18094), one model for pixels and words: asked about a picture or a
video, it answers in text with masks. {size} parameters, stored as {dtype}; SAM 2.1 sees frames at {side} px.

The classes are part of the package `unipixel` ({version} or newer), which has to be installed; the folder's own module
only imports them.

```python
from transformers import AutoModel, AutoProcessor, pipeline

model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
inputs = processor(images="photo.jpg", text="Please segment the dog.")
output = model.generate(**inputs, max_new_tokens=64, return_dict_in_generate=True)
processor.batch_decode(output.sequences[:, inputs["input_ids"].shape[1] :])
processor.post_process_masks(output.mask_logits, inputs["original_sizes"])  # per row bool (N, T, H, W)

ask = pipeline("{task}", model="{name}", trust_remote_code=True)
ask("photo.jpg", text="Please segment the dog.")  # text, ids, labels, scores, boxes, masks
```

Points, boxes, sessions, tracking and streaming: `model.build_engine(processor)`, or without transformers:

```python
import unipixel

session = unipixel.load("{name}").open("clip.mp4")
session.ask("What is this?", prompts=[unipixel.Point(120, 80, frame=0)])
```

An answer can be wrong, and a mask can miss its object; nothing here was checked for decisions about people.
"""


def save_model_folder(model: UniPixel, folder: str | Path, **options: Any) -> None:
    """Write weights, config, module and, where there is none, a model card.

    Args:
        options: of `save_model`.

    Raises:
        CheckpointError: the folder is a file.
    """
    folder = Path(folder)
    save_model(model, folder, **options)
    path, config = folder / "config.json", model.config
    tree = read_json(path)
    tree |= {
        "auto_map": {name: f"{MODULE}.{_CLASSES[name]}" for name in _CLASSES if name.startswith("AutoM")}
        | {"AutoConfig": f"{MODULE}.{_CLASSES['AutoConfig']}"},
        "custom_pipelines": {
            TASK: {"impl": f"{MODULE}.{_CLASSES['pipeline']}", "pt": ["AutoModel"], "type": "multimodal"}
        },
        "eos_token_ids": list(config.eos_token_ids),
        "sam2_sizes": None if config.has_named_sam else config.sam.to_hydra(),
    }
    write_text(path, json.dumps(tree, indent=2, sort_keys=True) + "\n")
    _write_module(folder)
    if not (folder / CARD).exists():
        write_text(folder / CARD, write_card(model, folder.name, tree["torch_dtype"]))


def save_processor_folder(processor: Processor, folder: str | Path) -> None:
    """Write the files of tokenizer and processor, and the module."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    processor.save(folder)
    name = _CLASSES["AutoProcessor"]
    tree = {"auto_map": {"AutoProcessor": f"{MODULE}.{name}"}, "processor_class": name}
    write_text(folder / "processor_config.json", json.dumps(tree, indent=2) + "\n")
    _write_module(folder)


def _write_module(folder: Path) -> None:
    names = sorted(set(_CLASSES.values()))
    source = _SOURCE.format(
        version=__version__,
        names="\n".join(f"    {name}," for name in names),
        exported=", ".join(f'"{name}"' for name in names),
    )
    write_text(folder / f"{MODULE}.py", source)


def write_card(model: UniPixel, name: str, dtype: str) -> str:
    """A model card with what is known of a model: no licence, which is not in a checkpoint, and no figures.

    Args:
        name: of the model, in the examples.
        dtype: of the weights on disk.
    """
    count = sum(p.numel() for p in model.parameters())
    facts = huggingface_hub.ModelCardData(
        library_name="transformers", pipeline_tag=TASK, tags=["unipixel", "image-segmentation", "video-segmentation"]
    )
    size = f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
    side = model.config.sam.image_size
    words = {"title": name, "name": name, "task": TASK, "version": __version__}
    return f"---\n{facts.to_yaml()}\n---\n\n" + _CARD.format(size=size, dtype=dtype, side=side, **words)


def export_checkpoint(
    name: str | Path,
    folder: str | Path,
    *,
    base: str | Path | None = None,
    sam: str | Path | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write a checkpoint as such a folder. A part of a model (LoRA, a training stage) becomes a whole one.

    Args:
        name, base, sam: as for `unipixel.load`.
        folder: new or empty.
        dtype: of the weights; by default the one they have, so that nothing is rounded.

    Raises:
        CheckpointError: the checkpoint is not usable, or the folder holds something already.
    """
    out = Path(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is not an empty folder; a checkpoint is exported to a new one")
    source = resolve_checkpoint(name)
    processor = Processor.from_folder(source)
    config, tensors = read_checkpoint(source, base=base, sam=sam)
    processor.check_ids(config)
    model = build_empty_model(config)
    fill_model(model, tensors, source, dtype=_find_stored_type(model, tensors))
    save_model_folder(model, out, max_shard_size=max_shard_size, dtype=dtype)
    save_processor_folder(processor, out)


def _find_stored_type(model: UniPixel, tensors: Mapping[str, StoredTensor]) -> torch.dtype:
    """The type that holds all parameters of a checkpoint without rounding; buffers have their own."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    layout = build_disk_layout(model.state_dict())
    kinds = {tensors[disk].dtype for disk, places in layout.items() if places[0][0] in names and disk in tensors}
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(kinds.pop() if len(kinds) == 1 else "", torch.float32)


def push_folder(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload a UniPixel checkpoint",
) -> str:
    """Write a folder and upload it as a model of the Hub, which is made if it does not exist.

    Args:
        save: called with the folder to write to.
        repo_id: ``owner/model``.
        private, token, revision, create_pr, commit_message: of the Hub's client.

    Returns:
        Address of the commit.
    """
    api = huggingface_hub.HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / repo_id.rsplit("/", 1)[-1]
        save(folder)
        done = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message, revision=revision, create_pr=create_pr
        )
    return str(done.commit_url)
