"""What a run folder says about itself: the resolved recipe, the command, versions and seed."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from unipixel import __version__
from unipixel.train.recipe import Recipe

FILE = "recipe.json"
_PACKAGES = ("torch", "transformers", "accelerate", "peft", "safetensors", "tokenizers", "numpy", "pillow", "deepspeed")


def write_run_record(folder: Path, recipe: Recipe, **more: Any) -> None:
    """Write ``recipe.json``; what an earlier start of the same run was given is kept under ``earlier``."""
    path = folder / FILE
    earlier = []
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        earlier = [*before.pop("earlier", []), before]
    record = {
        "recipe": asdict(recipe),
        "seed": recipe.seed,
        "command": sys.argv,
        "versions": _collect_versions(),
        **more,
        "earlier": earlier,
    }
    path.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


def _collect_versions() -> dict[str, str]:
    found = {"unipixel": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
