"""Run the code cells of a notebook in order, without Jupyter: python -m tools.run_notebook NOTEBOOK [-o PAGE.html].

What a cell ends with is shown as a notebook shows it, `_repr_html_` before `_repr_png_` before `repr`. Top-level
``await`` and ``async for`` work; ``%magic`` and ``!commands`` do not.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import base64
import html
import inspect
import json
from pathlib import Path
from typing import Any


def run_cells(path: Path) -> list[tuple[str, Any]]:
    """The source of every code cell, and the value that it ends with; None where it ends with a statement.

    Raises:
        Exception: whatever a cell raises, with the notebook and the number of the cell in its traceback.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    results = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        source, file = "".join(cell["source"]), f"{path.name}, cell {number}"
        tree = ast.parse(source, file)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        _run(compile(tree, file, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        value = None
        if isinstance(last, ast.Expr):
            value = _run(compile(ast.Expression(last.value), file, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        results.append((source, value))
    return results


def _run(code: Any, names: dict[str, Any]) -> Any:
    value = eval(code, names)
    if not inspect.iscoroutine(value):
        return value

    async def wait() -> Any:
        return await value

    return asyncio.run(wait())


def render(value: Any) -> str:
    """A value as HTML, as a notebook would choose."""
    for method, show in (("_repr_html_", str), ("_repr_png_", _embed)):
        shown = getattr(value, method, lambda: None)()
        if shown is not None:
            return show(shown)
    return f"<pre>{html.escape(repr(value))}</pre>"


def _embed(data: bytes) -> str:
    return f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def main() -> None:
    """Run one notebook and, if asked for, write what its cells show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    results = run_cells(given.notebook)
    if given.output:
        shown = [f"<pre>{html.escape(s)}</pre>\n{'' if v is None else render(v)}" for s, v in results]
        given.output.write_text("<meta charset=utf-8>\n" + "\n<hr>\n".join(shown) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
