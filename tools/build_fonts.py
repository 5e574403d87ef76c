"""Make ``unipixel/draw/fonts.zip``: the letters that labels are written in, out of fonts with open licences.

    python tools/build_fonts.py NOTO DROID NANUM EMOJI -o unipixel/draw/fonts.zip

NOTO is the folder of Debian's package fonts-noto-core, DROID the file of fonts-droid-fallback, NANUM NanumGothic.ttf
of fonts-nanum, EMOJI the folder of the npm package @fontsource/noto-emoji. Needs fontTools and brotli. Glyphs are cut
to what labels are likely to hold, hinting is dropped, shaping is kept. ``coverage.json`` in the archive says which
code points each font has.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

SCRIPTS = (
    "Arabic", "Hebrew", "Armenian", "Georgian", "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil",
    "Telugu", "Kannada", "Malayalam", "Sinhala", "Thai", "Lao", "Khmer", "Myanmar", "Ethiopic", "Thaana", "Cherokee",
    "Tifinagh",
)  # fmt: skip
PRESENTATION_FORMS = set(range(0xFB50, 0xFF00))
"""Of Arabic, which shaping makes of the letters themselves."""
LATIN = [
    *range(0x20, 0x250), *range(0x2B0, 0x530), *range(0x1E00, 0x2000), *range(0x2000, 0x2070), *range(0x2070, 0x2190),
    *range(0x2190, 0x2200), 0x2212, 0x2260, 0x2264, 0x2265, 0xFFFD,
]  # fmt: skip
KANA_AND_SIGNS = [
    *range(0x2E80, 0x2FE0), *range(0x3000, 0x3130), *range(0x3130, 0x3190), *range(0x31F0, 0x3200),
    *range(0xFF00, 0xFFF0),
]  # fmt: skip
STANDARDS = {"gb2312": (0xB0A1, 0xD7F9), "shift_jis": (0, 0x9872), "big5": (0xA440, 0xC67E)}
"""Where the characters of everyday writing stand: the first levels of GB 2312, JIS X 0208 and Big5."""


def han() -> set[int]:
    """Characters of everyday Chinese and Japanese."""
    found = set()
    for code in range(0x4E00, 0xA000):
        sign = chr(code)
        for standard, (first, last) in STANDARDS.items():
            packed = sign.encode(standard, "ignore")
            if packed and first <= int.from_bytes(packed, "big") <= last:
                found.add(code)
    return found


def hangul() -> set[int]:
    """The syllables of Korean's first standard."""
    return {code for code in range(0xAC00, 0xD7A4) if len(chr(code).encode("euc_kr", "ignore")) == 2}


def cut(path: Path, codes: Iterable[int] | None, *, shaped: bool) -> tuple[bytes, set[int]]:
    """A font with some glyphs, and the code points it has."""
    font = TTFont(path)
    have = set(font.getBestCmap())
    kept = have - PRESENTATION_FORMS if codes is None else have & set(codes)
    options = subset.Options(
        hinting=False, notdef_outline=True, glyph_names=False, name_IDs=[0, 1, 2, 13, 14], legacy_kern=False,
        layout_features=["*"] if shaped else [], drop_tables=[] if shaped else ["DSIG", "GDEF"],
    )  # fmt: skip
    options.flavor = None
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=kept)
    cutter.subset(font)
    font.flavor = None
    # a changed font may not carry a reserved name; copyright and licence stay
    for record in font["name"].names:
        if record.nameID in (1, 3, 4, 6, 16):
            record.string = "unipixel-label"
    out = io.BytesIO()
    font.save(out)
    return out.getvalue(), kept


def ranges(codes: Iterable[int]) -> list[list[int]]:
    """Code points as pairs of first and last."""
    found: list[list[int]] = []
    for code in sorted(codes):
        if found and code == found[-1][1] + 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return found


def main() -> None:
    """Write the archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("noto", type=Path)
    parser.add_argument("droid", type=Path)
    parser.add_argument("nanum", type=Path)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    fonts = [("sans", *cut(given.noto / "NotoSans-Regular.ttf", LATIN, shaped=True))]
    for script in SCRIPTS:
        name = f"NotoSans{script}-Regular.ttf"
        fonts.append((script.lower(), *cut(given.noto / name, None, shaped=True)))
    fonts.append(("east", *cut(given.droid, han() | set(KANA_AND_SIGNS), shaped=False)))
    fonts.append(("hangul", *cut(given.nanum, hangul(), shaped=False)))
    fonts.append(("emoji", *cut(given.emoji / "noto-emoji-emoji-400-normal.woff2", None, shaped=False)))
    seen: set[int] = set()
    coverage = {}
    with zipfile.ZipFile(given.out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data, codes in fonts:
            new = codes - seen
            seen |= codes
            if new:
                coverage[name] = ranges(codes)
                archive.writestr(zipfile.ZipInfo(f"{name}.ttf"), data, zipfile.ZIP_DEFLATED, 9)
            print(f"{name}: {len(codes)} signs, {len(data)} bytes")
        packed = json.dumps(coverage, separators=(",", ":"))
        archive.writestr(zipfile.ZipInfo("coverage.json"), packed, zipfile.ZIP_DEFLATED, 9)
    print(f"{given.out}: {given.out.stat().st_size} bytes, {len(seen)} signs")


if __name__ == "__main__":
    main()
