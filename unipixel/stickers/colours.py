"""Names of colours: read off final pixels, and painted onto sprites so that the name comes out true."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
"""Every colour that is ever named."""

UNCLEAR = len(COLOURS)
"""Class of pixels that people would not agree on."""

PAINTS: dict[str, tuple[float, float, float, float]] = {
    "red": (0.0, 0.85, 0.25, 0.75),
    "orange": (27.0, 0.9, 0.45, 0.55),
    "yellow": (54.0, 0.85, 0.5, 0.5),
    "green": (118.0, 0.75, 0.15, 0.75),
    "blue": (220.0, 0.8, 0.2, 0.8),
    "purple": (277.0, 0.65, 0.15, 0.7),
    "pink": (326.0, 0.5, 0.45, 0.55),
    "brown": (24.0, 0.68, 0.1, 0.48),
    "grey": (0.0, 0.0, 0.1, 0.7),
}
"""Colour a thing can be repainted in -> hue in degrees, saturation, and lift and gain of the brightness."""


def _classify_pixels(rgb: np.ndarray) -> np.ndarray:
    """Colour class of each pixel; ``rgb`` float (n, 3) in 0..1. Borders between colours are left unclear."""
    top, bottom = rgb.max(1), rgb.min(1)
    chroma = top - bottom
    safe = np.maximum(chroma, 1e-6)
    r, g, b = rgb[:, 0], rgb[:, 1], rgb[:, 2]
    hue = np.where(top == r, ((g - b) / safe) % 6, np.where(top == g, (b - r) / safe + 2, (r - g) / safe + 4)) * 60
    saturation = chroma / np.maximum(top, 1e-6)
    found = np.full(len(rgb), UNCLEAR, np.uint8)

    def assign(colour: str, where: np.ndarray) -> None:
        found[where & (found == UNCLEAR)] = COLOURS.index(colour)

    assign("black", (top < 0.2) | ((top < 0.3) & (saturation < 0.35)))
    pale = saturation < 0.13
    assign("white", pale & (top > 0.87))
    assign("grey", pale & (top > 0.36) & (top < 0.8))
    vivid = saturation > 0.3
    warm = (hue >= 8) & (hue <= 44)
    assign("brown", warm & vivid & (top < 0.66) & (top > 0.25))
    assign("orange", (hue >= 16) & (hue <= 41) & (saturation > 0.55) & (top > 0.8))
    assign("yellow", (hue >= 44) & (hue <= 65) & (saturation > 0.4) & (top > 0.72))
    assign("green", (hue >= 72) & (hue <= 166) & vivid & (top > 0.25))
    assign("blue", (hue >= 186) & (hue <= 250) & vivid & (top > 0.25))
    assign("purple", (hue >= 258) & (hue <= 296) & (saturation > 0.25) & (top > 0.25))
    assign("pink", (hue >= 300) & (hue <= 345) & (saturation > 0.22) & (top > 0.65))
    assign("pink", ((hue > 345) | (hue < 14)) & (saturation > 0.18) & (saturation < 0.5) & (top > 0.85))
    assign("red", ((hue >= 348) | (hue <= 9)) & (saturation > 0.6) & (top > 0.42))
    return found


@lru_cache(maxsize=1)
def _build_table() -> np.ndarray:
    """uint8 (32768,): colour class of each colour at 5 bits a channel."""
    code = np.arange(32768)
    rgb = np.stack([code >> 10, (code >> 5) & 31, code & 31], 1) * 8 + 4
    table = _classify_pixels(rgb / 255.0)
    table.setflags(write=False)
    return table


def measure_colour_shares(pixels: np.ndarray) -> np.ndarray:
    """Share of each class of COLOURS, and of unclear pixels last, among pixels uint8 (n, 3). Returns float (12,)."""
    if not len(pixels):
        return np.zeros(UNCLEAR + 1)
    code = pixels >> 3
    index = (code[:, 0].astype(np.uint16) << 10) | (code[:, 1].astype(np.uint16) << 5) | code[:, 2]
    return np.bincount(_build_table()[index], minlength=UNCLEAR + 1) / len(pixels)


def choose_colour_name(shares: np.ndarray) -> str | None:
    """The one colour that an object plainly has, or None when it has several or an unclear one."""
    named = shares[:UNCLEAR]
    best = int(named.argmax())
    others = np.delete(named, best).max()
    return COLOURS[best] if named[best] >= 0.5 and others <= 0.25 else None


def repaint(patch: np.ndarray, colour: str) -> np.ndarray:
    """The sprite in another colour; outlines, whites and shading stay.

    Args:
        patch: float32 (h, w, 4), colour multiplied by alpha, 0..255.
        colour: a key of PAINTS.

    Returns:
        float32 (h, w, 4) of the same kind.
    """
    hue, saturation, lift, gain = PAINTS[colour]
    ramp = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    pure = 1 - np.clip(np.minimum(ramp, 4 - ramp), 0, 1)  # the fully saturated colour of that hue
    tint = (1 - saturation + saturation * pure).astype(np.float32)
    alpha = patch[..., 3]
    top, bottom = patch[..., :3].max(-1), patch[..., :3].min(-1)
    chroma = top - bottom
    keep = ((chroma < 0.12 * alpha) & (top > 0.88 * alpha)) | (top < 0.22 * alpha)
    value = lift * alpha + gain * top
    painted = np.where(keep[..., None], patch[..., :3], value[..., None] * tint)
    return np.concatenate([painted, alpha[..., None]], -1)
