"""Pages of the documentation site that are made when it is built: a hook of MkDocs, named in mkdocs.yml.

The front page is README.md, so that both say the same. The reference is made from what runs: Python from
``unipixel.__all__`` (by mkdocstrings), the command line from its parser, HTTP from the server's OpenAPI description.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import unipixel
from unipixel.cli import app

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages beside the folder docs, and their names on the site."""
LINK = re.compile(r"(?<!\])\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^()\s:#]+)(#[^()\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made (called by MkDocs)."""
    from mkdocs.structure.files import File

    made = {name: (ROOT / source).read_text(encoding="utf-8") for source, name in ROOT_PAGES.items()}
    description = describe_server()
    made["reference/python.md"] = python_page()
    made["reference/command-line.md"] = command_line_page()
    made["reference/http.md"] = http_page(description)
    made["openapi.json"] = json.dumps(description, indent=1)
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead somewhere on the site, too (called by MkDocs)."""
    source = page.file.src_uri
    here = next((name for name, shown in ROOT_PAGES.items() if shown == source), f"docs/{source}")
    return redirect_links(markdown, here, config.repo_url)


def redirect_links(markdown: str, here: str, repository: str | None) -> str:
    """The text of a page with its relative links as the site needs them.

    What is no page of the site is linked in the repository; where its address is not known, only the words stay.

    Args:
        here: the page's path in the repository.
        repository: the repository's address, without one None or "".
    """

    def redirected(match: re.Match[str]) -> str:
        words, target, part = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        if not (ROOT / path).exists():
            return match[0]  # nothing of ours; MkDocs complains of links that lead nowhere
        if path in ROOT_PAGES:
            return f"[{words}]({ROOT_PAGES[path]}{part})"
        if path.startswith("docs/") and path != here:
            return f"[{words}]({posixpath.relpath(path, 'docs')}{part})"
        return f"[{words}]({repository.rstrip('/')}/blob/main/{path}{part})" if repository else words

    return LINK.sub(redirected, markdown)


def python_page() -> str:
    """The public names, for mkdocstrings."""
    names = [name for name in unipixel.__all__ if name != "__version__"]
    return "\n\n".join(
        [
            "# Python",
            "The names below are all that `unipixel` exports, with `unipixel.__version__`. Shapes of arrays stand "
            "beside them: `T` frames, `H` and `W` pixels. All errors of bad input are subclasses of `UnipixelError`.",
            *(f"::: unipixel.{name}" for name in names),
        ]
    )


def command_line_page() -> str:
    """Every command of the parser with its arguments and options."""
    lines = ["# Command line", "", "`unipixel COMMAND --help` prints the same in the terminal.", ""]
    lines += command_lines("unipixel", typer.main.get_command(app))
    return "\n".join(lines)


def command_lines(name: str, command: Any) -> Iterator[str]:
    """The section of a command and those of its subcommands.

    Args:
        command: as typer makes them.
    """
    given = [entry for entry in command.params if not entry.hidden and entry.name != "help"]
    arguments = [entry for entry in given if entry.param_type_name == "argument"]
    options = [entry for entry in given if entry.param_type_name == "option"]
    usage = [entry.metavar if entry.required else f"[{entry.metavar}]" for entry in arguments]
    usage += ["[OPTIONS]"] * bool(options) + ["COMMAND"] * hasattr(command, "commands")
    yield from (f"## {name}", "", plain(command.help), "", "```text", " ".join([name, *usage]), "```", "")
    if given:
        yield from ("| | | |", "|---|---|---|")
        yield from (
            f"| {spelling(entry)} | {plain(entry.help)} | {preset(entry)} |" for entry in [*arguments, *options]
        )
        yield ""
    for part, inner in getattr(command, "commands", {}).items():
        yield from command_lines(f"{name} {part}", inner)


def spelling(entry: Any) -> str:
    """How an argument or option is written."""
    if entry.param_type_name == "argument":
        return f"`{entry.metavar}`"
    value = "" if entry.is_flag else f" {entry.metavar or 'VALUE'}"
    negative = f", `{entry.secondary_opts[0]}`" if entry.secondary_opts else ""
    return ", ".join(f"`{name}{value}`" for name in entry.opts).replace("|", "\\|") + negative


def preset(entry: Any) -> str:
    """What holds where an option is not given."""
    if entry.required:
        return "required"
    if entry.default is None or entry.default is False or entry.default == () or callable(entry.default):
        return ""
    return f"`{getattr(entry.default, 'value', entry.default)}`"


def plain(text: str | None) -> str:
    """Text in one line, for a cell of a table."""
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;").replace("``", "`")


def describe_server() -> dict[str, Any]:
    """The OpenAPI description of the server with nano behind it."""
    from unipixel.serve.app import create_app

    return create_app(unipixel.load(device="cpu")).openapi()


def http_page(description: Mapping[str, Any]) -> str:
    """Every route and every schema of an OpenAPI description."""
    lines = ["# HTTP", "", description["info"]["description"], ""]
    lines += ["Made from the [OpenAPI description](../openapi.json), which a server sends as `/openapi.json`.", ""]
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            lines += [f"## {method.upper()} `{path}`", "", f"**{operation['summary']}.**"]
            lines += [" ".join(operation.get("description", "").split()), ""]
            lines += route_table(operation)
    lines += ["## Schemas", ""]
    for name, schema in description["components"]["schemas"].items():
        lines += [f"### {name}", "", " ".join(schema.get("description", "").split()), ""]
        if "properties" in schema:
            lines += ["| field | type | |", "|---|---|---|"]
            for key, value in schema["properties"].items():
                needed = " (required)" if key in schema.get("required", ()) else ""
                lines.append(f"| `{key}`{needed} | {type_name(value)} | {plain(value.get('description'))} |")
            lines.append("")
    return "\n".join(lines)


def route_table(operation: Mapping[str, Any]) -> list[str]:
    """What goes into a route and what comes out of it."""
    rows = [
        f"| {entry['in']} `{entry['name']}` | {type_name(entry['schema'])} | {plain(entry.get('description'))} |"
        for entry in operation.get("parameters", ())
    ]
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        rows.append(f"| body, `{kind}` | {type_name(body.get('schema', {}))} | |")
    for status, answer in operation["responses"].items():
        if status < "400":
            shown = [
                f"`{kind}` {type_name(body.get('schema', {}))}" for kind, body in answer.get("content", {}).items()
            ]
            rows.append(f"| {status} | {' or '.join(shown)} | {plain(answer.get('description'))} |")
    refusals = ", ".join(status for status in operation["responses"] if status >= "400")
    return ["| | | |", "|---|---|---|", *rows, f"| {refusals} | [ErrorOut](#errorout) | refused, in one sentence |", ""]


def type_name(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words, with links to the named ones."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(type_name(part) for part in schema[key])
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if "propertyNames" in schema:
        names = type_name(schema["propertyNames"]).replace(" or ", ", ")
        return f"object with {names}: {type_name(schema['additionalProperties'])}"
    if schema.get("type") == "array":
        return f"array of {type_name(schema['items'])}" if schema.get("items") else "array"
    return str(schema.get("type", "any"))
