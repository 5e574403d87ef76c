"""Labels in the world's scripts, and what becomes of signs that no font has."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unipixel import draw
from unipixel.draw import Lettering, is_writable, make_contact_sheet, overlay

WORDS = {
    "Chinese": "狗",
    "traditional": "貓與龍",
    "Japanese": "いぬ 犬 ネコ",
    "Korean": "강아지",
    "French": "héllo",
    "Vietnamese": "con chó được",
    "Russian": "собака",
    "Greek": "σκύλος",
    "Arabic": "كلب",
    "Hebrew": "כלב",
    "Hindi": "कुत्ता",
    "Bengali": "কুকুর",
    "Tamil": "நாய்",
    "Thai": "หมา",
    "Georgian": "ძაღლი",
    "Amharic": "ውሻ",
    "emoji": "🐕",
}


@pytest.fixture(autouse=True)
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is bundled must do, whatever the machine has."""
    draw._find_font.cache_clear()
    monkeypatch.setattr(draw, "_list_system_fonts", lambda: ())


def written(text: str, size: int = 24) -> np.ndarray:
    image = Image.new("L", (360, 60))
    Lettering(size).write(image.convert("RGB"), (4, 4), text, (255, 255, 255))
    colour = Image.new("RGB", (360, 60))
    Lettering(size).write(colour, (4, 4), text, (255, 255, 255))
    return np.asarray(colour)[..., 0]


@pytest.mark.parametrize("word", WORDS.values(), ids=list(WORDS))
def test_words_of_many_scripts_have_glyphs_of_their_own(word: str) -> None:
    assert is_writable(word)
    drawn = written(word)
    signs = [sign for sign in word if sign.isalpha() or ord(sign) > 0x1F000]
    boxes = written("\U0010fffd" * len(signs))
    assert drawn.max() > 200 and not np.array_equal(drawn, boxes)
    assert not np.array_equal(drawn, written("?" * len(word)))
    # different signs look different, which boxes would not
    looks = {written(sign).tobytes() for sign in set(signs)}
    assert len(looks) >= len(set(signs)) * 0.9
    assert Lettering(24).width(word) == pytest.approx(np.flatnonzero(drawn.any(0)).max() - 4, abs=14)


def test_blanks_controls_and_halves_of_signs_break_nothing() -> None:
    for text in ("", " ", "\ud83d", "a\u0000b", "\u200b", "e\u0301", "👩\u200d👩\u200d👧", "❤\ufe0f", "🐕 dog 狗"):
        assert written(text).shape == (60, 360)
    assert np.array_equal(written("a\u0000b"), written("ab"))


def test_a_label_that_no_font_can_write_becomes_the_number() -> None:
    frame, mask = np.full((120, 160, 3), 100, dtype=np.uint8), np.ones((1, 120, 160), dtype=bool)
    assert not is_writable("𒀀𒀁")
    np.testing.assert_array_equal(overlay(frame, mask, ["𒀀𒀁"], [7]), overlay(frame, mask, ["7"], [7]))
    assert not np.array_equal(overlay(frame, mask, ["狗"], [7]), overlay(frame, mask, ["7"], [7]))
    assert make_contact_sheet([frame], ["𒀀 and 狗"]).shape[2] == 3


def test_lines_are_broken_by_the_width_of_their_own_signs() -> None:
    narrow, wide = (
        make_contact_sheet([np.zeros((40, 40, 3), np.uint8)], [sign * 40], cell_width=200) for sign in "i犬"
    )
    assert wide.shape[0] > narrow.shape[0]


def test_a_system_font_helps_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "_find_system_font", lambda sign: "sans" if sign == "𒀀" else None)
    assert is_writable("𒀀") and not is_writable("𒀁")
    draw._find_font.cache_clear()
