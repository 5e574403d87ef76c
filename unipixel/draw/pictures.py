"""Pictures to look at: masks drawn over frames, contact sheets, and PNG, GIF and MP4 files of them."""

from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.codec
import numpy as np
from PIL import Image, ImageDraw

from unipixel.draw.lettering import Lettering, is_writable

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_GIF_SHORTEST, _GIF_LONGEST = 2, 65_535
"""Hundredths of a second: viewers slow frames of less than 2 down to 10, and a file holds no more than 16 bits."""
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
    masks: np.ndarray,
    labels: Sequence[str] | None = None,
    ids: Sequence[int] | None = None,
    *,
    opacity: float = 0.45,
) -> np.ndarray:
    """The frame with each mask in its object's translucent colour, outlined, and labelled inside.

    Args:
        frame: uint8 (H, W, 3).
        masks: bool (N, H, W); later ones lie above earlier ones, empty ones draw nothing.
        labels: text per object; by default its id, which also takes the place of text that no font can write. Empty
            text draws no label.
        ids: object ids, which choose the colours; by default 1, 2, ...
        opacity: of the colour inside the outline, 0 to 1.

    Returns:
        uint8 (H, W, 3), a new array.

    Raises:
        ValueError: Shapes or lengths do not fit each other.
    """
    frame, masks = _to_frame(frame), np.asarray(masks)
    if masks.ndim != 3 or masks.shape[1:] != frame.shape[:2]:
        raise ValueError(f"masks must have the shape (N, {frame.shape[0]}, {frame.shape[1]}), not {masks.shape}")
    masks = masks.astype(bool)
    ids = list(range(1, len(masks) + 1)) if ids is None else [int(object_id) for object_id in ids]
    texts = [str(object_id) for object_id in ids] if labels is None else [str(label) for label in labels]
    if len(ids) != len(masks) or len(texts) != len(masks):
        raise ValueError(f"{len(masks)} masks need as many ids and labels, not {len(ids)} and {len(texts)}")
    out = frame.astype(np.float32)
    thickness = max(1, round(min(frame.shape[:2]) / 240))
    for mask, object_id in zip(masks, ids, strict=True):
        colour = np.array(get_colour(object_id), dtype=np.float32)
        out[mask] += opacity * (colour - out[mask])
        out[outline(mask, thickness)] = colour
    image = Image.fromarray(out.round().astype(np.uint8))
    for mask, object_id, text in zip(masks, ids, texts, strict=True):
        if text and mask.any():
            _write_label(
                image, text if is_writable(text) else str(object_id), _find_middle(mask), get_colour(object_id)
            )
    return np.array(image)


def outline(mask: np.ndarray, thickness: int = 1) -> np.ndarray:
    """The pixels of a bool (H, W) mask within ``thickness`` steps of its edge; the picture's border is no edge."""
    inner = np.asarray(mask).astype(bool)
    for _ in range(thickness):
        padded = np.pad(inner, 1, constant_values=True)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
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
    Image.fromarray(_to_frame(image)).save(path, format="PNG")
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
    kept[0].save(path, format="GIF", save_all=True, append_images=kept[1:], duration=durations_ms, loop=0)
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
    codec, options = ("libx264", {"crf": "18"}) if "libx264" in av.codec.codecs_available else ("mpeg4", {"q": "3"})
    with av.open(f"file:{path}", mode="w", format="mp4", options={"movflags": "+faststart"}) as container:
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


def _find_middle(mask: np.ndarray) -> tuple[int, int]:
    """The (x, y) of the mask's pixel nearest to its centre of mass, so that a label lies on the object itself."""
    rows, columns = np.nonzero(mask)
    nearest = int(((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin())
    return int(columns[nearest]), int(rows[nearest])


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
