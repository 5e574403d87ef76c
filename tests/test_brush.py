"""Label Studio's brush masks: the stream bit by bit, round trips, and streams that are not what they should be."""

from __future__ import annotations

import numpy as np
import pytest

from unipixel.masks.brush import decode_brush, encode_brush

HEADER = f"{8:032b}" + "00111" + "0010" + "0011" + "0111" + "1111"


def stream(bits: str) -> list[int]:
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_two_pixels_are_two_runs_of_four_values() -> None:
    runs = "1" + "00" + "011" + "00000000" + "1" + "00" + "011" + "11111111"
    assert encode_brush(np.array([[False, True]])) == stream(HEADER + runs)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (5, 7), (40, 60), (300, 500)])
@pytest.mark.parametrize("kind", ["none", "all", "noise", "stripes"])
def test_mask_comes_back_from_its_stream(shape: tuple[int, int], kind: str) -> None:
    places = np.indices(shape).sum(axis=0)
    noise = np.random.default_rng(0).random(shape) > 0.5
    mask = {"none": places < 0, "all": places >= 0, "noise": noise, "stripes": places % 37 < 11}[kind]
    assert (decode_brush(encode_brush(mask), shape) == mask).all()


def test_values_that_are_not_repeated_are_read_one_by_one() -> None:
    # what a painter's anti-aliased edge looks like: alpha 40 and 200, colours of their own
    values = [9, 8, 7, 40, 1, 2, 3, 200]
    literal = "0" + "00" + "111" + "".join(f"{value:08b}" for value in values)
    assert decode_brush(stream(HEADER + literal), (1, 2)).tolist() == [[False, True]]


def test_mask_of_ones_is_as_opaque_as_one_of_255() -> None:
    runs = "1" + "00" + "011" + f"{0:08b}" + "1" + "00" + "011" + f"{1:08b}"
    assert decode_brush(stream(HEADER + runs), (1, 2)).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "holds 0 values"),
        ([1, 2, 3], "holds 0 values"),
        (stream(HEADER), "ends after 0 of 8"),
        (stream(HEADER + "1" + "00" + "011" + "00000000"), "ends after 4 of 8"),
        (stream(HEADER + "0" + "00" + "111" + "00000000"), "ends after 0 of 8"),
        (stream(HEADER + "1" + "10" + "11111111" + "00000000"), "ends after 0 of 8"),
        (stream(HEADER.replace("00111", "01111", 1)), "values of 16 bits"),
        (stream(f"{2**31:032b}" + HEADER[32:]), "holds 2147483648 values"),
        ([256], "from 0 to 255"),
    ],
)
def test_streams_that_are_no_masks_are_refused(given: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_brush(given, (1, 2))
