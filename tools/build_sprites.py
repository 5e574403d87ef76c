"""Makes the built-in sprite sheets of `unipixel.stickers` from open-licence emoji families.

Needs, besides the project's own packages, `cairosvg` (with the cairo library), `resvg-py` and the unpacked npm packages
`@iconify-json/noto`, `twemoji`, `fluent-emoji-flat`, `emojione`, `fxemoji`, `noto-v1`, `fluent-emoji` and
`streamline-emojis` in one folder:

    for f in noto twemoji fluent-emoji-flat emojione fxemoji noto-v1 fluent-emoji streamline-emojis; do
        npm pack @iconify-json/$f && mkdir -p icons/$f && tar xzf iconify-json-$f-*.tgz -C icons/$f --strip-components=1
    done
    PYTHONPATH=. python tools/build_sprites.py icons

It writes `unipixel/stickers/sheets/FAMILY.webp` (a grid of 96 px sprites with transparency) and `index.json` (which
thing sits in which cell), and `LICENCES.md` with the licences that the packages state. With `--contact DIR` it
also writes pictures that put the families side by side: look at them after each change of the tables in
`sprite_sources.py`.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import cairosvg  # type: ignore[import-not-found, import-untyped, unused-ignore]
import resvg_py  # type: ignore[import-not-found, import-untyped, unused-ignore]
from PIL import Image, ImageDraw
from sprite_sources import HELD_OUT_ICONS, ICONS, REJECTED

from unipixel.stickers.things import THINGS

SIZE = 96
COLUMNS = 16
TRAINING = ("noto", "twemoji", "fluent-emoji-flat", "emojione")
HELD_OUT = "fxemoji"
FURTHER = ("noto-v1", "fluent-emoji", "streamline-emojis")
"""Drawn by resvg, because cairosvg cannot blur; the older sheets stay as they were drawn."""
FAMILIES = (*TRAINING, HELD_OUT, *FURTHER)
STICKERS = Path(__file__).resolve().parents[1] / "unipixel" / "stickers"


def icon_svg(pack: dict[str, Any], icon: str) -> str | None:
    """One icon of an iconify package as an SVG document, following aliases; None when the package lacks it."""
    entry = pack["icons"].get(icon)
    while entry is None and icon in pack.get("aliases", {}):
        icon = pack["aliases"][icon]["parent"]
        entry = pack["icons"].get(icon)
    if entry is None:
        return None
    width = entry.get("width", pack.get("width", 16))
    height = entry.get("height", pack.get("height", 16))
    left, top = entry.get("left", 0), entry.get("top", 0)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{entry["body"]}</svg>'
    )


def rasterise(svg: str, family: str) -> Image.Image:
    """The picture cropped to what is visible and centred on a SIZE x SIZE canvas with a 2 px margin."""
    if family in FURTHER:
        data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * SIZE, height=4 * SIZE))
    else:
        data = cairosvg.svg2png(bytestring=svg.encode(), output_width=4 * SIZE, output_height=4 * SIZE)
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 if a > 40 else 0).getbbox()
    if box is None:
        raise ValueError("the icon is blank")
    image = image.crop(box)
    scale = (SIZE - 4) / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGBA", (SIZE, SIZE))
    canvas.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    return canvas


def family_sprites(folder: Path, family: str) -> list[tuple[str, str, Image.Image]]:
    """(thing, icon, picture) for everything of the table that a family draws, without repeated pictures."""
    pack = json.loads((folder / family / "icons.json").read_text())
    sprites: list[tuple[str, str, Image.Image]] = []
    seen: set[bytes] = set()
    for thing in THINGS:
        icons = HELD_OUT_ICONS.get(thing, "") if family == HELD_OUT else ICONS.get(thing, thing)
        for icon in icons.split():
            svg = icon_svg(pack, icon)
            if svg is None or (family, icon) in REJECTED:
                continue
            image = rasterise(svg, family)
            if image.tobytes() not in seen:
                seen.add(image.tobytes())
                sprites.append((thing, icon, image))
    return sprites


def write_sheet(sprites: list[tuple[str, str, Image.Image]], path: Path) -> None:
    """All sprites of a family in one WebP grid."""
    rows = -(-len(sprites) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * SIZE, rows * SIZE))
    for cell, (_, _, image) in enumerate(sprites):
        sheet.paste(image, (cell % COLUMNS * SIZE, cell // COLUMNS * SIZE))
    sheet.save(path, quality=88, alpha_quality=90, method=6)


def write_contact(table: dict[str, list[tuple[str, str, Image.Image]]], folder: Path) -> None:
    """Pictures with one thing a row and every family's sprites side by side, 30 things a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(THINGS)
    columns = [names[i : i + 20] for i in range(0, len(names), 20)]
    for page in range(0, len(columns), 3):
        image = Image.new("RGB", (2544, 20 * 66), (150, 170, 160))
        draw = ImageDraw.Draw(image)
        for c, column in enumerate(columns[page : page + 3]):
            for r, name in enumerate(column):
                draw.text((c * 848 + 2, r * 66 + 26), name, fill=(0, 0, 0))
                x = c * 848 + 70
                for family in FAMILIES:
                    found = [s for s in table[family] if s[0] == name]
                    step = 62 if len(found) < 2 else 44
                    for _, _, sprite in found[:2]:
                        small = sprite.resize((step, step), Image.Resampling.BILINEAR)
                        image.paste(small, (x, r * 66 + (66 - step) // 2), small)
                        x += step + 2
                    x = c * 848 + 70 + 96 * (FAMILIES.index(family) + 1)
        image.save(folder / f"contact-{page // 3}.png")


def notice(folder: Path) -> str:
    """Licence paragraph for each family, from what its package states."""
    lines = [
        "# Sprites of `unipixel.stickers`",
        "",
        "The pictures in `unipixel/stickers/sheets/` are rasterised from these icon families, taken from the npm",
        "packages named below (collected by the Iconify project). Each was cropped, scaled to 96 pixels and, in",
        "generated scenes, rotated, flipped or recoloured.",
        "",
    ]
    for family in FAMILIES:
        info = json.loads((folder / family / "info.json").read_text())
        author, licence = info["author"], info["license"]
        lines.append(
            f"- **{info['name']}** by {author['name']} ({author['url']}), {licence['title']} "
            f"(SPDX `{licence['spdx']}`, {licence['url']}); npm package `@iconify-json/{family}`."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icons", type=Path, help="folder with the unpacked npm packages")
    parser.add_argument("--contact", type=Path, help="also write contact sheets into this folder")
    arguments = parser.parse_args()
    table = {family: family_sprites(arguments.icons, family) for family in FAMILIES}
    for thing in THINGS:
        families = {family for family in TRAINING if any(s[0] == thing for s in table[family])}
        if len(families) < 3:
            print(f"{thing}: only in {sorted(families)}")
    sheets = STICKERS / "sheets"
    sheets.mkdir(exist_ok=True)
    for family, sprites in table.items():
        write_sheet(sprites, sheets / f"{family}.webp")
        print(family, len(sprites), "sprites", (sheets / f"{family}.webp").stat().st_size, "bytes")
    index = {"size": SIZE, "columns": COLUMNS, "families": {f: [s[0] for s in rows] for f, rows in table.items()}}
    (sheets / "index.json").write_text(json.dumps(index, separators=(",", ":")) + "\n")
    (STICKERS / "LICENCES.md").write_text(notice(arguments.icons))
    if arguments.contact:
        write_contact(table, arguments.contact)


if __name__ == "__main__":
    main()
