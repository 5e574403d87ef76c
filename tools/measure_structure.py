"""Count what makes a package easy or hard to read: names, records, modules and lines.

``python tools/measure_structure.py [FOLDER]`` prints one line per figure; with ``--list`` also what was counted.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "unipixel"
SHORT = 90
RECORD_BASES = {"NamedTuple", "TypedDict", "BaseModel"}
IRREGULAR = frozenset(
    """asked begun bound bought brought built burnt done drawn driven fed felt found given gone grown held hidden kept
    known laid learnt led lent lost made meant met paid said seen sent shown slept sorted spent spoken stood taken
    taught thought thrown told understood woken won worn woven written""".split()  # noqa: SIM905
)
"""Irregular participles, without those that are verbs as well (``cut``, ``put``, ``read``, ``run``, ``set``)."""
NOT_PARTICIPLES = frozenset(
    """bring embed exceed feed need proceed seed speed
    decoding drawing embedding encoding heading lettering padding rendering ring sampling setting string thing
    thresholding training""".split()  # noqa: SIM905
)
"""Words that end alike but are verbs, or nouns of the field."""
PREDICATES = ("is_", "has_", "can_", "may_", "was_", "are_", "needs_")


def is_participle(name: str) -> bool:
    """Whether a function's name begins with, or is, a participle: ``asked``, ``_drawn_on``; not ``is_closed``."""
    bare = name.strip("_")
    if name.startswith("__") or bare.startswith(PREDICATES):
        return False
    first = bare.split("_")[0]
    return first not in NOT_PARTICIPLES and (first in IRREGULAR or (len(first) > 4 and first.endswith(("ed", "ing"))))


def is_record(node: ast.ClassDef, schemas: set[str]) -> bool:
    """Whether a class is a dataclass, a named tuple, a typed dictionary, or a schema made of ``schemas``."""
    decorators = {ast.unparse(item).split("(")[0].split(".")[-1] for item in node.decorator_list}
    bases = {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
    return "dataclass" in decorators or bool((RECORD_BASES | schemas) & bases)


def definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Every function, method and class of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def main() -> None:
    """Print the figures of a package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=PACKAGE)
    parser.add_argument("--list", action="store_true", help="also list what was counted")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON and nothing else")
    options = parser.parse_args()
    functions = 0
    participles: list[str] = []
    classes: dict[str, list[str]] = defaultdict(list)
    lines: dict[str, int] = {}
    every: list[tuple[str, ast.ClassDef]] = []
    for path in sorted(options.folder.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        place = path.relative_to(options.folder).as_posix()
        lines[place] = len(source.splitlines())
        for node in definitions(ast.parse(source)):
            where = f"{place}:{node.lineno} {node.name}"
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(where)
                every.append((where, node))
            else:
                functions += 1
                if is_participle(node.name):
                    participles.append(where)
    schemas: set[str] = set()
    # a base may stand in a later file
    while more := {n.name for _, n in every if not n.decorator_list and is_record(n, schemas)} - schemas:
        schemas |= more
    records = [where for where, node in every if is_record(node, schemas)]
    repeated = [" and ".join(places) for places in classes.values() if len(places) > 1]
    short = [f"{place} {count}" for place, count in lines.items() if count < SHORT]
    counts = {
        "functions and methods": functions,
        "named by a participle": len(participles),
        "classes": sum(map(len, classes.values())),
        "class names used twice": len(repeated),
        "record classes": len(records),
        "modules": len(lines),
        f"modules under {SHORT} lines": len(short),
        "lines": sum(lines.values()),
    }
    if options.json:
        print(json.dumps(counts))
        return
    for name, count in counts.items():
        share = f" ({count / functions:.1%})" if name == "named by a participle" else ""
        print(f"{name:<24} {count}{share}")
    if options.list:
        for title, listed in (
            ("participles", participles),
            ("repeated", repeated),
            ("records", records),
            ("short", short),
        ):
            print(f"\n{title}", *listed, sep="\n  ")


if __name__ == "__main__":
    main()
