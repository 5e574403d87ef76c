"""Text in pictures: fonts that cover most of the world's scripts, and a run of text in as many of them as it takes.

The fonts lie in ``fonts.zip`` (``tools/build_fonts.py`` makes it, NOTICE names them). What they lack is looked for in
the fonts of the system; what none has is written as ``?``, so that whoever draws can put something else in its place.
"""

from __future__ import annotations

import bisect
import io
import json
import unicodedata
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

_ARCHIVE = Path(__file__).parent / "fonts.zip"
_SYSTEM_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "/Library/Fonts",
                   "/System/Library/Fonts", "C:\\Windows\\Fonts")  # fmt: skip
_SYSTEM_NAMES = ("NotoSansCJK", "NotoSans", "DejaVuSans", "Unifont", "unifont", "Arial Unicode", "msyh", "Apple")
_MOST_SYSTEM_FONTS = 40
_INVISIBLE = {"Mn", "Me", "Cf"}
_EMOJI_SIZE = 0.9
_VARIANTS = {chr(code) for code in (*range(0xFE00, 0xFE10), *range(0x1F3FB, 0x1F400))}
"""Signs that only choose among the looks of the one before: here there is one look."""

Font = ImageFont.FreeTypeFont


@dataclass(frozen=True)
class TextRun:
    """Text that one font can write."""

    text: str
    font: str
    """Name in the archive, or a system font's path."""


def is_writable(text: str) -> bool:
    """Whether there is a glyph for every sign of a text."""
    return all(_find_font(sign) is not None for sign in text if not _is_silent(sign))


class Lettering:
    """Text of one size.

    Args:
        size: pixels of an em.
    """

    def __init__(self, size: int) -> None:
        self.size = max(8, size)
        self.ascent = round(1.07 * self.size)
        """Pixels from a line's top to its base."""
        self.line_height = round(1.5 * self.size)

    def width(self, text: str) -> float:
        """Pixels that a text takes."""
        return sum(self._load_font(run).getlength(run.text) for run in _split_runs(text))

    def height(self) -> int:
        """Pixels from the top of the highest letter to the bottom of the lowest."""
        return round(1.36 * self.size)

    def write(self, image: Image.Image, place: tuple[float, float], text: str, ink: tuple[int, int, int]) -> None:
        """Write a line whose top left corner is ``place``."""
        pen, (x, y) = ImageDraw.Draw(image), place
        for run in _split_runs(text):
            font = self._load_font(run)
            pen.text((x, y + self.ascent), run.text, font=font, fill=ink, anchor="ls")
            x += font.getlength(run.text)

    def count_fitting(self, text: str, width: float) -> int:
        """How many characters of a text fit, at least one."""
        fits, longest = 1, len(text)
        while fits < longest:
            middle = (fits + longest + 1) // 2
            if self.width(text[:middle]) <= width:
                fits = middle
            else:
                longest = middle - 1
        return fits

    def _load_font(self, run: TextRun) -> Font:
        return _open_font(run.font, round(self.size * _EMOJI_SIZE) if run.font == "emoji" else self.size)


def _split_runs(text: str) -> list[TextRun]:
    """A text in stretches of one font; signs that join others stay with them, those that no font has become ``?``."""
    signs: list[tuple[str, str]] = []
    for sign in text:
        before = signs[-1][0] if signs else "sans"
        if unicodedata.category(sign)[0] == "C" and sign not in "\u200c\u200d":
            continue  # controls, surrogates, marks of direction
        if sign == " " or _is_silent(sign):
            if before in _read_coverage() and _has_glyph(before, sign):
                signs.append((before, sign))
            elif sign == " " or not (unicodedata.category(sign) == "Cf" or sign in _VARIANTS):
                signs.append((_find_font(sign) or "sans", sign))
            continue
        font = _find_font(sign)
        signs.append((font, sign) if font is not None else ("sans", "?"))
    # between two fonts a blank is of neither, lest it lies at the other end of what is written from the right
    for place in range(len(signs) - 1, -1, -1):
        after = signs[place + 1][0] if place + 1 < len(signs) else "sans"
        if signs[place][1] == " " and (signs[place][0] != after or after == "emoji"):
            signs[place] = ("sans", " ")
    return [TextRun("".join(sign for _, sign in group), font) for font, group in groupby(signs, key=lambda one: one[0])]


def _is_silent(sign: str) -> bool:
    return unicodedata.category(sign) in _INVISIBLE or 0x1F3FB <= ord(sign) <= 0x1F3FF


@lru_cache(maxsize=4096)
def _find_font(sign: str) -> str | None:
    return next((name for name in _read_coverage() if _has_glyph(name, sign)), None) or _find_system_font(sign)


def _has_glyph(name: str, sign: str) -> bool:
    """Whether a font of the archive has a glyph for a sign."""
    starts, ends = _read_coverage()[name]
    place = bisect.bisect_right(starts, ord(sign)) - 1
    return place >= 0 and ord(sign) <= ends[place]


@lru_cache(maxsize=1)
def _read_coverage() -> dict[str, tuple[list[int], list[int]]]:
    with zipfile.ZipFile(_ARCHIVE) as archive:
        listed = json.loads(archive.read("coverage.json"))
    return {name: ([first for first, _ in some], [last for _, last in some]) for name, some in listed.items()}


@lru_cache(maxsize=256)
def _open_font(name: str, size: int) -> Font:
    # complex scripts need their letters joined and moved, which only Raqm does
    engine = ImageFont.Layout.RAQM if features.check("raqm") else ImageFont.Layout.BASIC
    return ImageFont.truetype(
        io.BytesIO(_read_font(name)) if name in _read_coverage() else name, size, layout_engine=engine
    )


@lru_cache(maxsize=64)
def _read_font(name: str) -> bytes:
    with zipfile.ZipFile(_ARCHIVE) as archive:
        return archive.read(f"{name}.ttf")


@lru_cache(maxsize=1)
def _list_system_fonts() -> tuple[str, ...]:
    found: list[Path] = []
    for folder in _SYSTEM_FOLDERS:
        root = Path(folder).expanduser()
        try:
            found += [path for path in root.rglob("*") if path.suffix.lower() in (".ttf", ".otf", ".ttc")]
        except OSError:
            continue
    known = [path for path in found if path.stem.startswith(_SYSTEM_NAMES) and "Color" not in path.stem]
    return tuple(str(path) for path in sorted(known, key=lambda path: (len(path.stem), path)))[:_MOST_SYSTEM_FONTS]


def _find_system_font(sign: str) -> str | None:
    """A font of the system that has a glyph for a sign: one that does not look like that of a sign nobody has."""
    for path in _list_system_fonts():
        try:
            font = ImageFont.truetype(path, 24)
            drawn, lacking = (bytes(font.getmask(one)) for one in (sign, "\U0010fffe"))
        except (OSError, ValueError):
            continue
        if drawn and drawn != lacking and any(drawn):
            return path
    return None
