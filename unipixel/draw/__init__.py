"""Pictures to look at: masks drawn over frames, contact sheets, and PNG, GIF and MP4 files of them.

Labels are written in as many fonts as they need. These lie in ``fonts.zip`` (``tools/build_fonts.py`` makes it, NOTICE
names them); what they lack is looked for in the fonts of the system, and what none has is written as ``?``, so that
whoever draws can put something else in its place.
"""

from __future__ import annotations

import bisect
import colorsys
import io
import itertools
import json
import math
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from unipixel.atomic import replace_file

__all__ = [
    "encode_clip",
    "encode_png",
    "make_contact_sheet",
    "mark_prompts",
    "outline",
    "overlay",
    "get_colour",
    "shrink",
    "write_gif",
    "write_mp4",
    "write_png",
]

_H264 = "libx264"
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_GIF_SHORTEST, _GIF_LONGEST = 2, 65_535
"""Hundredths of a second: viewers slow frames of less than 2 down to 10, and a file holds no more than 16 bits."""
_PNG_LEVEL = 1
"""Of a photo of 3.4 megapixels, 3 takes 1.4 times and the usual 6 3.3 times as long to write, and saves 4 and 7 %."""
_STRIP = 256
"""Rows of a frame that are worked on at a time."""
_MARGIN = 8
"""Pixels between the cells of a contact sheet."""


def get_colour(object_id: int) -> tuple[int, int, int]:
    """The colour (red, green, blue) of an object id: the same in every picture, and far from its neighbours'."""
    # Golden ratio steps never come back to a hue; three levels of light keep later ids apart as well.
    hue = (0.02 + object_id * _GOLDEN_RATIO) % 1.0
    saturation, value = ((0.85, 0.95), (0.65, 1.0), (0.95, 0.72))[object_id // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def overlay(
    frame: np.ndarray,
    masks: np.ndarray | Iterable[np.ndarray],
    labels: Sequence[str] | None = None,
    ids: Sequence[int] | None = None,
    *,
    opacity: float = 0.45,
) -> np.ndarray:
    """The frame with each mask in its object's translucent colour, outlined, and labelled inside.

    Args:
        frame: uint8 (H, W, 3).
        masks: bool (N, H, W), or one (H, W) after another; later ones lie above earlier ones, empty ones draw nothing.
        labels: text per object; by default its id, which also takes the place of text that no font can write. Empty
            text draws no label.
        ids: object ids, which choose the colours; by default 1, 2, ...
        opacity: of the colour inside the outline, 0 to 1.

    Returns:
        uint8 (H, W, 3), a new array.

    Raises:
        ValueError: Shapes or lengths do not fit each other.
    """
    frame = _to_frame(frame)
    height, width = frame.shape[:2]
    if isinstance(masks, np.ndarray) and (masks.ndim != 3 or masks.shape[1:] != (height, width)):
        raise ValueError(f"masks must have the shape (N, {height}, {width}), not {masks.shape}")
    thickness = max(1, round(min(height, width) / 240))
    parts = [_cut_out(mask, (height, width), thickness) for mask in masks]
    ids = list(range(1, len(parts) + 1)) if ids is None else [int(object_id) for object_id in ids]
    texts = [str(object_id) for object_id in ids] if labels is None else [str(label) for label in labels]
    if len(ids) != len(parts) or len(texts) != len(parts):
        raise ValueError(f"{len(parts)} masks need as many ids and labels, not {len(ids)} and {len(texts)}")
    image = Image.fromarray(frame.copy())
    for part, object_id in zip(parts, ids, strict=True):
        if part is not None:
            inside, edge, (y, x) = part
            for shape, strength in ((inside, opacity), (edge, 1.0)):
                image.paste(get_colour(object_id), (x, y), Image.fromarray(shape * np.uint8(round(255 * strength))))
    for part, object_id, text in zip(parts, ids, texts, strict=True):
        if text and part is not None:
            written = text if is_writable(text) else str(object_id)
            _write_label(image, written, _find_middle(part[0], part[2]), get_colour(object_id))
    return np.array(image)


def _cut_out(
    mask: np.ndarray, size_hw: tuple[int, int], thickness: int
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]] | None:
    """The part of a mask that is not empty, with a margin of one pixel: it, its outline, and where its corner lies."""
    mask = np.asarray(mask).astype(bool, copy=False)
    if mask.shape != size_hw:
        raise ValueError(f"masks must have the shape {size_hw}, as the frame has, not {mask.shape}")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    top, left = max(int(rows[0]) - 1, 0), max(int(columns[0]) - 1, 0)
    part = mask[top : rows[-1] + 2, left : columns[-1] + 2].copy()
    return part, outline(part, thickness), (top, left)


def outline(mask: np.ndarray, thickness: int = 1) -> np.ndarray:
    """The pixels of a bool (H, W) mask within ``thickness`` steps of its edge; the picture's border is no edge."""
    mask = np.asarray(mask).astype(bool, copy=False)
    inner = mask
    for _ in range(thickness):
        before, inner = inner, inner.copy()
        inner[1:] &= before[:-1]
        inner[:-1] &= before[1:]
        inner[:, 1:] &= before[:, :-1]
        inner[:, :-1] &= before[:, 1:]
    return mask & ~inner


def mark_prompts(
    frame: np.ndarray,
    points: Sequence[tuple[float, float, bool]] = (),
    boxes: Sequence[tuple[float, float, float, float]] = (),
) -> np.ndarray:
    """The frame with clicks as discs (green positive, red negative) and boxes as yellow frames.

    Args:
        frame: uint8 (H, W, 3).
        points: x, y in pixels, and whether the click is positive.
        boxes: x1, y1, x2, y2 in pixels.
    """
    image = Image.fromarray(_to_frame(frame))
    pen = ImageDraw.Draw(image)
    radius = max(2.0, min(image.size) / 60)
    for x1, y1, x2, y2 in boxes:
        left, right, top, bottom = min(x1, x2), max(x1, x2) - 1, min(y1, y2), max(y1, y2) - 1
        edges = (left, top, max(left, right), max(top, bottom))
        pen.rectangle(edges, outline=(255, 220, 0), width=max(1, round(radius / 2)))
    for x, y, positive in points:
        fill = (0, 200, 60) if positive else (230, 30, 30)
        place = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(place, fill=fill, outline=(255, 255, 255), width=max(1, round(radius / 4)))
    return np.array(image)


def make_contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    cell_width: int = 320,
) -> np.ndarray:
    """Pictures side by side on white, each scaled to one width, with its caption below.

    Args:
        images: uint8 (H, W, 3), sizes may differ.
        captions: text per picture, broken into lines.
        columns: pictures per row; by default about as many as rows.
        cell_width: width of each picture in pixels.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: No picture, or not one caption per picture.
    """
    if not len(images):
        raise ValueError("a contact sheet needs at least one picture, got none")
    texts = [""] * len(images) if captions is None else [str(caption) for caption in captions]
    if len(texts) != len(images):
        raise ValueError(f"{len(images)} pictures need as many captions, not {len(texts)}")
    columns = min(len(images), columns or math.ceil(math.sqrt(len(images))))
    cells = [_draw_cell(image, text, cell_width) for image, text in zip(images, texts, strict=True)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    size = (columns * (cell_width + _MARGIN) + _MARGIN, sum(heights) + (len(rows) + 1) * _MARGIN)
    sheet = Image.new("RGB", size, (255, 255, 255))
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_MARGIN + column * (cell_width + _MARGIN), top))
        top += height + _MARGIN
    return np.array(sheet)


def write_png(image: np.ndarray, path: str | Path) -> Path:
    """Write a picture, uint8 (H, W, 3), as PNG; missing folders are made."""
    path = _prepare_path(path)
    with replace_file(path, sync=False) as draft:
        Image.fromarray(_to_frame(image)).save(draft, format="PNG", compress_level=_PNG_LEVEL)
    return path


def write_gif(frames: Iterable[np.ndarray], path: str | Path, fps: float = 8.0) -> Path:
    """Write frames, uint8 (H, W, 3), as an endless GIF of 256 colours; for short clips, since they stay in memory.

    It lasts as long as the clip: times are whole hundredths of a second, so of more than 50 frames per second some are
    left out.

    Raises:
        ValueError: No frame, frames of different sizes, or a frame rate that is not positive.
    """
    path = _prepare_path(path)
    first, rest = _check_frames(frames, fps)
    kept: list[Image.Image] = []
    times: list[int] = []
    number = 0
    for number, frame in enumerate(itertools.chain([first], rest)):
        time = round(100 * number / fps)
        if not times or time - times[-1] >= _GIF_SHORTEST:
            kept.append(Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE))
            times.append(time)
    times.append(max(round(100 * (number + 1) / fps), times[-1] + _GIF_SHORTEST))
    durations_ms = [10 * min(after - before, _GIF_LONGEST) for before, after in itertools.pairwise(times)]
    with replace_file(path, sync=False) as draft:
        kept[0].save(draft, format="GIF", save_all=True, append_images=kept[1:], duration=durations_ms, loop=0)
    return path


def write_mp4(frames: Iterable[np.ndarray], path: str | Path, fps: float = 8.0) -> Path:
    """Write frames, uint8 (H, W, 3), as MP4, one at a time: H.264 where the library has it, else MPEG-4 part 2.

    Frames of odd size are repeated at the right and bottom edge to an even one, as the format asks for.

    Raises:
        ValueError: No frame, frames of different sizes, or a frame rate that is not positive.
    """
    path = _prepare_path(path)
    first, rest = _check_frames(frames, fps)
    height, width = first.shape[:2]
    import av  # loaded for videos alone

    codec, options = (_H264, {"crf": "18"}) if _has_h264() else ("mpeg4", {"q": "3"})
    with (
        replace_file(path, sync=False) as draft,
        av.open(f"file:{draft}", mode="w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        # both ways round, so that a frame every hour is no rate of 0
        rate = Fraction(fps).limit_denominator(1001) if fps >= 1 else 1 / Fraction(1 / fps).limit_denominator(1001)
        stream = container.add_stream(codec, rate=rate, options=options)
        if not isinstance(stream, av.VideoStream):
            raise TypeError(f"the codec {codec} does not write video")
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        for frame in itertools.chain([first], rest):
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
    return path


def encode_png(image: np.ndarray) -> bytes:
    """A picture, uint8 (H, W, 3), as the bytes of a PNG file."""
    with io.BytesIO() as file:
        Image.fromarray(_to_frame(image)).save(file, format="PNG", compress_level=_PNG_LEVEL)
        return file.getvalue()


def encode_clip(frames: Iterable[np.ndarray], fps: float = 8.0) -> tuple[bytes, str]:
    """The bytes of a file that browsers play, and its media type: MP4, or GIF where the library has no H.264."""
    has_h264 = _has_h264()
    with tempfile.TemporaryDirectory(prefix="unipixel-") as folder:
        path = Path(folder) / "clip"
        path = write_mp4(frames, path, fps) if has_h264 else write_gif(frames, path, fps)
        return path.read_bytes(), "video/mp4" if has_h264 else "image/gif"


def _has_h264() -> bool:
    import av.codec

    return _H264 in av.codec.codecs_available


def shrink(frame: np.ndarray, side: int) -> np.ndarray:
    """The frame, uint8 (H, W, 3), its longer side at most ``side`` pixels."""
    image = Image.fromarray(_to_frame(frame))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.array(image)


def _to_frame(frame: np.ndarray) -> np.ndarray:
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise ValueError(f"a picture must be uint8 (H, W, 3), not {frame.dtype} {frame.shape}")
    return np.ascontiguousarray(frame)


def _check_frames(frames: Iterable[np.ndarray], fps: float) -> tuple[np.ndarray, Iterable[np.ndarray]]:
    if not 0 < fps <= 1000:
        raise ValueError(f"the frame rate must be above 0 and at most 1000 per second, not {fps!r}")
    checked = map(_to_frame, frames)
    first = next(checked, None)
    if first is None:
        raise ValueError("a clip needs at least one frame, got none")
    return first, (_check_same_size(frame, first) for frame in checked)


def _check_same_size(frame: np.ndarray, first: np.ndarray) -> np.ndarray:
    if frame.shape != first.shape:
        raise ValueError(f"the frames of a clip must have one size, not {first.shape[:2]} and {frame.shape[:2]}")
    return frame


def _prepare_path(path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _find_middle(mask: np.ndarray, corner: tuple[int, int]) -> tuple[int, int]:
    """The (x, y) of the mask's pixel nearest to its centre of mass, so that a label lies on the object itself.

    Args:
        mask: a part of the whole, not empty.
        corner: row and column at which it begins.
    """
    counts = mask.sum(1), mask.sum(0)
    middle = [float(n @ (np.arange(len(n)) + first)) / int(n.sum()) for n, first in zip(counts, corner, strict=True)]
    nearest, found = math.inf, (0, 0)
    for top in range(0, len(mask), _STRIP):
        rows, columns = np.nonzero(mask[top : top + _STRIP])
        if len(rows):
            rows, columns = rows + (top + corner[0]), columns + corner[1]
            distances = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2
            place = int(distances.argmin())
            if distances[place] < nearest:
                nearest, found = float(distances[place]), (int(columns[place]), int(rows[place]))
    return found


def _write_label(image: Image.Image, text: str, middle: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Write text on a plate in the object's colour around ``middle``, moved inside the picture; none if too small."""
    letters, pen = Lettering(max(11, round(min(image.size) / 28))), ImageDraw.Draw(image)
    pad = max(2, letters.size // 5)
    width, height = math.ceil(letters.width(text)) + 2 * pad, letters.height() + 2 * pad
    if width > image.width or height > image.height:
        return
    x = min(max(middle[0] - width // 2, 0), image.width - width)
    y = min(max(middle[1] - height // 2, 0), image.height - height)
    pen.rounded_rectangle((x, y, x + width - 1, y + height - 1), radius=pad, fill=colour)
    red, green, blue = colour
    ink = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
    letters.write(image, (x + pad, y + pad), text, ink)


def _draw_cell(image: np.ndarray, caption: str, width: int) -> Image.Image:
    """One picture at the given width with its caption below."""
    picture = Image.fromarray(_to_frame(image))
    height = max(1, round(picture.height * width / picture.width))
    # A very tall picture would make the whole sheet unreadable.
    if height > 3 * width:
        picture = picture.resize((max(1, round(picture.width * 3 * width / picture.height)), 3 * width))
    else:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    letters = Lettering(max(11, width // 22))
    lines = _break_lines(caption, letters, width)
    line_height = letters.line_height
    cell = Image.new("RGB", (width, picture.height + 4 + line_height * len(lines)), (255, 255, 255))
    cell.paste(picture, ((width - picture.width) // 2, 0))
    for number, line in enumerate(lines):
        letters.write(cell, (0, picture.height + 4 + number * line_height), line, (20, 20, 20))
    return cell


def _break_lines(text: str, letters: Lettering, width: int) -> list[str]:
    """Text broken at spaces so that lines fit ``width`` pixels; a word that does not fit is broken inside."""
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            while letters.width(word) > width:
                fits = letters.count_fitting(word, width)
                lines += [line, word[:fits]] if line else [word[:fits]]
                line, word = "", word[fits:]
            if line and letters.width(f"{line} {word}") > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    return lines


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
        return sum(self._load_font(name).getlength(run) for run, name in _split_runs(text))

    def height(self) -> int:
        """Pixels from the top of the highest letter to the bottom of the lowest."""
        return round(1.36 * self.size)

    def write(self, image: Image.Image, place: tuple[float, float], text: str, ink: tuple[int, int, int]) -> None:
        """Write a line whose top left corner is ``place``."""
        pen, (x, y) = ImageDraw.Draw(image), place
        for run, name in _split_runs(text):
            font = self._load_font(name)
            pen.text((x, y + self.ascent), run, font=font, fill=ink, anchor="ls")
            x += font.getlength(run)

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

    def _load_font(self, name: str) -> Font:
        return _open_font(name, round(self.size * _EMOJI_SIZE) if name == "emoji" else self.size)


def _split_runs(text: str) -> list[tuple[str, str]]:
    """A text in stretches of one font, each with its font: a name in the archive, or a system font's path.

    Signs that join others stay with them, those that no font has become ``?``.
    """
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
    return [("".join(sign for _, sign in group), font) for font, group in groupby(signs, key=lambda one: one[0])]


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
