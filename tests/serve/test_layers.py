"""The order inside the server: a module imports only from those before it, and the three APIs not from each other."""

from __future__ import annotations

import ast
from pathlib import Path

SERVE = Path(__file__).parents[2] / "unipixel" / "serve"
ORDER = (
    {"settings", "schemas"},
    {"errors"},
    {"worker", "serializers", "media"},
    {"folder"},
    {"responses"},
    {"guard", "metrics"},
    {"runtime"},
    {"openai", "sessions", "label_studio"},
    {"service"},
    {"app"},
    {"server"},
    {"__init__"},
)
RANKS = {name: rank for rank, names in enumerate(ORDER) for name in names}


def imported(path: Path) -> set[str]:
    """Parts of the server that a file imports, imports inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            whole = node.module == "unipixel.serve"
            names = [f"unipixel.serve.{alias.name}" for alias in node.names] if whole else [node.module]
        found |= {name.split(".")[2] for name in names if name.startswith("unipixel.serve.")}
    return found


def test_modules_import_only_from_those_before_them() -> None:
    wrong = []
    for path in sorted(SERVE.rglob("*.py")):
        here = path.relative_to(SERVE).with_suffix("").parts[0]
        for there in imported(path) - {here}:
            if RANKS[there] >= RANKS[here]:
                wrong.append(f"{path.relative_to(SERVE)} imports {there}")
    assert not wrong, "\n".join(wrong)


def test_every_part_has_a_place() -> None:
    parts = {path.stem for path in SERVE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts == set(RANKS)


def test_imports_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text("from unipixel.serve import app\ndef f():\n    from unipixel.serve.sessions.store import Job\n")
    assert imported(file) == {"app", "sessions"}
