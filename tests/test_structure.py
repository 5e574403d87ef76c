"""Rules of the package, read from the source: layers, allowed imports, sizes, names, exports, docstrings."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import unipixel

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "unipixel"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = MODULES + sorted(path for folder in ("tests", "tools", "examples") for path in (ROOT / folder).rglob("*.py"))
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(path for path in sorted(ROOT.iterdir()) if path.suffix in {".md", ".toml", ".txt"} or path.name == "Makefile"),
    *(path for path in sorted(ROOT.iterdir()) if path.suffix in {".cff", ".yml", ".yaml"}),
    *sorted(path for folder in (".ci", ".github") for path in (ROOT / folder).rglob("*") if path.is_file()),
]

LAYERS = {
    "errors": 0,
    "checks": 0,
    "atomic": 0,
    "media": 1,
    "masks": 1,
    "metrics": 1,
    "draw": 1,
    "sample": 2,
    "model": 3,
    "data": 4,
    "stickers": 3,
    "processing": 4,
    "formats": 5,
    "engine": 6,
    "train": 7,
    "eval": 7,
    "hub": 7,
    "serve": 8,
    "batch": 8,
    "bench": 8,
    "ablation": 8,
    "cli": 9,
    "__main__": 10,
}
NO_TORCH = {"errors", "checks", "atomic", "media", "masks", "metrics", "draw", "sample", "data", "stickers", "formats"}
ONLY_IN = {
    "av": {"media", "draw"},
    "ray": {"batch"},
    **{name: {"serve"} for name in ("aiohttp", "fastapi", "flask", "sse_starlette", "starlette", "uvicorn")},
}
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "core", "base", "manager", "managers"}
BROAD_EXCEPT_ALLOWED = {"cli", "serve"}  # and the evaluation runner, which is one file
MAX_LINES = 700


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def package(path: Path) -> str:
    """The part of the package a file belongs to: ``model`` for model/tracker.py, ``masks`` for masks.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything a file imports, function-level and type-checking imports included."""
    parents = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(parents[: len(parents) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (parent, node.module) if part)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def imported_package(dotted: str) -> str | None:
    """The part of the package that an import of ours points to; None for other packages and for the version."""
    parts = dotted.split(".")
    if parts[0] != "unipixel" or parts[1:] in ([], ["__version__"]):
        return None
    return unipixel._HOMES[parts[1]].split(".")[1] if parts[1] in unipixel._HOMES else parts[1]


def test_every_module_belongs_to_a_layer() -> None:
    unplaced = [relative(path) for path in MODULES if package(path) != "__init__" and package(path) not in LAYERS]
    assert not unplaced, f"no layer is named for {unplaced}; see docs/architecture.md"


def test_modules_import_only_from_lower_layers_or_their_own_package() -> None:
    wrong = []
    for path in MODULES:
        here = package(path)
        if here == "__init__":
            continue
        for line, name in imported_names(path):
            there = imported_package(name)
            if there is None or there == here:
                continue
            if LAYERS.get(there, 99) >= LAYERS[here]:
                wrong.append(f"{relative(path)}:{line} ({here}, layer {LAYERS[here]}) imports {name}")
    assert not wrong, "\n".join(wrong)


def test_public_module_imports_nothing_of_ours_at_run_time() -> None:
    top_level = parse(PACKAGE / "__init__.py").body
    imports = [node for node in top_level if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
    assert names <= {"importlib", "typing", "__future__"}


def test_libraries_are_imported_only_where_they_may_be() -> None:
    wrong = []
    for path in MODULES:
        for line, name in imported_names(path):
            top = name.split(".")[0]
            torch_inside = top in {"torch", "torchvision"} and package(path) in NO_TORCH
            if torch_inside or (top in ONLY_IN and package(path) not in ONLY_IN[top]):
                wrong.append(f"{relative(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_packages_that_must_not_be_required_are_not_imported() -> None:
    banned = {"torchvision", "flash_attn", "decord", "triton", "cv2", "scipy"}
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in MODULES
        for line, name in imported_names(path)
        if name.split(".")[0] in banned
    ]
    assert not wrong, "\n".join(wrong)


def test_files_are_short_enough_to_read() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines: {long}"


def test_no_module_has_a_name_that_says_nothing() -> None:
    named = [path for path in PACKAGE.rglob("*") if path.suffix == ".py" or path.is_dir()]
    wrong = [relative(path) for path in named if path.stem.strip("_") in FORBIDDEN_NAMES]
    assert not wrong


@pytest.mark.parametrize("name", unipixel.__all__)
def test_every_exported_name_resolves(name: str) -> None:
    assert getattr(unipixel, name) is not None


def test_unknown_public_names_are_refused_by_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        unipixel.nonsense  # noqa: B018


def test_every_export_has_a_home_and_every_home_is_exported() -> None:
    assert set(unipixel._HOMES) | {"__version__"} == set(unipixel.__all__)


def test_importing_the_package_and_its_metrics_loads_no_heavy_library() -> None:
    code = "import sys, unipixel, unipixel.metrics; print(sorted({'torch', 'transformers', 'av'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_answering_loads_neither_transformers_nor_the_compiler_of_torch() -> None:
    """The built-in checkpoint, on a picture and on a clip; these libraries would cost more than the answer."""
    code = """
import sys, numpy, unipixel
engine = unipixel.load(device="cpu")
for shape in ((48, 64, 3), (3, 48, 64, 3)):
    session = engine.open(numpy.zeros(shape, dtype=numpy.uint8))
    assert session.ask("Please segment the red car.").text
    assert session.ask("What is this?", prompts=[unipixel.Point(20, 20, frame=0)]).text
heavy = {"transformers", "sympy", "torch._dynamo", "torch.distributed.tensor"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_stands_in_one_place_and_has_a_section_of_the_changelog() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"] and "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "unipixel.__version__"}
    assert f"## [{unipixel.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_file_names_a_path_of_one_machine_or_an_index_host() -> None:
    # Written in pieces, so that this file passes its own test.
    folders = "|".join(["ho" + "me", "ro" + "ot", "wo" + "rk", "Us" + "ers", "tm" + "p", "op" + "t", "mn" + "t"])
    path_pattern = re.compile(rf"(?<![\w.~/:-])/(?:{folders})/\w")
    hosts = ["py" + "pi.org", "pythonhos" + "ted.org", "download.py" + "torch.org", "registry.np" + "mjs.org"]
    host_pattern = re.compile("|".join(re.escape(host) for host in hosts))
    wrong = []
    for path in [*SOURCES, *PAGES]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if path_pattern.search(line) or host_pattern.search(line):
                wrong.append(f"{relative(path)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(name is None or getattr(name, "id", "") in {"Exception", "BaseException"} for name in caught)


def test_broad_excepts_stand_only_at_the_boundaries() -> None:
    wrong = []
    for path in MODULES:
        if package(path) in BROAD_EXCEPT_ALLOWED or relative(path) in (
            "unipixel/eval/runner.py",
            "unipixel/media/decoder.py",
            "unipixel/batch/cluster.py",
            "unipixel/batch/storage.py",
            "unipixel/batch/worker.py",
        ):
            continue
        handlers = [node for node in ast.walk(parse(path)) if isinstance(node, ast.ExceptHandler)]
        wrong += [f"{relative(path)}:{handler.lineno}" for handler in handlers if is_broad(handler)]
    assert not wrong, f"except Exception outside of eval/runner, media/decoder, batch, serve, cli: {wrong}"


def is_trivial(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a member needs no docstring: a property, or a method of at most three statements."""
    decorators = {getattr(item, "attr", getattr(item, "id", "")) for item in node.decorator_list}
    if decorators & {"overload", "setter", "override", "property", "cached_property"}:
        return True
    return not isinstance(node, ast.ClassDef) and len(node.body) <= 3


def undocumented(body: list[ast.stmt], prefix: str) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of public classes, functions and methods that lack a docstring and are not trivial."""
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and not (prefix and is_trivial(node)):
            yield node.lineno, prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{prefix}{node.name}.")


def test_every_public_name_has_a_docstring() -> None:
    wrong = []
    for path in MODULES:
        tree = parse(path)
        if ast.get_docstring(tree) is None and tree.body:
            wrong.append(f"{relative(path)}:1 module")
        wrong += [f"{relative(path)}:{line} {name}" for line, name in undocumented(tree.body, "")]
    assert not wrong, "\n".join(wrong)


def test_functions_are_verbs_and_class_names_stand_once() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "measure_structure.py", "--json"], capture_output=True, text=True, check=True
    )
    counts = json.loads(done.stdout)
    assert counts["class names used twice"] == 0
    assert counts["named by a participle"] <= 0.01 * counts["functions and methods"]
