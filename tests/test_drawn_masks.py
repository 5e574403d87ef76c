"""Masks as people and their tools draw them: grey edges, JPEG, ids, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from unipixel.cli.options import parse_mask
from unipixel.errors import MediaError, PromptError
from unipixel.masks import load_annotated_ids, load_index_png


def disc(side: int = 120, *, left: int = 30) -> Image.Image:
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).ellipse((left, 20, side - 20, side - 30), fill=255)
    return image


def soft(image: Image.Image, kind: str) -> Image.Image:
    if kind == "halved":
        return image.resize((60, 60), Image.Resampling.LANCZOS)
    if kind == "enlarged":
        return image.resize((333, 333), Image.Resampling.BICUBIC)
    if kind == "turned":
        return image.rotate(17, Image.Resampling.BILINEAR)
    return image.filter(ImageFilter.GaussianBlur(2))


@pytest.mark.parametrize("kind", ["halved", "enlarged", "turned", "blurred"])
def test_grey_edges_are_cut_at_half_white(tmp_path: Path, kind: str) -> None:
    image = soft(disc(), kind)
    image.save(tmp_path / "mask.png")
    ids, is_cut = load_annotated_ids(tmp_path / "mask.png")
    assert is_cut
    np.testing.assert_array_equal(ids, np.where(np.asarray(image) > 127, 255, 0))
    (prompt,) = parse_mask(str(tmp_path / "mask.png"))
    np.testing.assert_array_equal(prompt.mask, np.asarray(image) > 127)


@pytest.mark.parametrize("quality", [20, 60, 95])
def test_the_noise_of_a_jpeg_is_no_object(tmp_path: Path, quality: int) -> None:
    disc().save(tmp_path / "mask.jpg", quality=quality)
    Image.open(tmp_path / "mask.jpg").save(tmp_path / "saved.png")
    truth = np.asarray(disc()) > 127
    for name in ("mask.jpg", "saved.png"):
        ids, is_cut = load_annotated_ids(tmp_path / name)
        assert is_cut and set(np.unique(ids)) == {0, 255}
        assert (truth != (ids > 0)).mean() < 0.01
    Image.new("L", (20, 20)).save(tmp_path / "black.jpg")
    assert not load_annotated_ids(tmp_path / "black.jpg")[0].any()


def test_ids_stay_ids_even_of_small_objects(tmp_path: Path) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        ids = np.zeros((90, 90), dtype=np.uint8)
        for number in [*range(1, 9), 255]:
            y, x = rng.integers(0, 80, 2)
            height, width = rng.integers(1, 12, 2)
            ids[y : y + height, x : x + width] = number
        Image.fromarray(ids).save(tmp_path / "ids.png")
        read, is_cut = load_annotated_ids(tmp_path / "ids.png")
        np.testing.assert_array_equal(read, ids)
        assert not is_cut


def test_palettes_bits_and_deep_pictures_are_taken_as_they_are(tmp_path: Path) -> None:
    values = np.asarray(soft(disc(), "halved"))
    palette = Image.fromarray(values, mode="P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(load_annotated_ids(tmp_path / "palette.png")[0], values)
    disc().convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(load_annotated_ids(tmp_path / "bits.png")[0])) == {0, 1}
    deep = np.zeros((9, 9), dtype=np.uint16)
    deep[:4], deep[5:] = 300, 7
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(load_annotated_ids(tmp_path / "deep.png")[0], deep)
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "deep_soft.png")
    ids, is_cut = load_annotated_ids(tmp_path / "deep_soft.png")
    assert is_cut
    np.testing.assert_array_equal(ids > 0, values > 127)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_in_colour_channels_is_grey(tmp_path: Path, mode: str) -> None:
    soft(disc(), "halved").convert(mode).save(tmp_path / "mask.png")
    assert load_annotated_ids(tmp_path / "mask.png")[1]
    with pytest.raises(MediaError, match="need a palette or grey PNG"):
        load_index_png(tmp_path / "mask.png")  # whoever writes ids for machines writes no colours


def smooth_ids() -> Image.Image:
    ids = np.zeros((60, 60), dtype=np.uint8)
    ids[5:30, 5:20], ids[5:30, 22:40], ids[35:50, 10:50] = 60, 120, 180
    return Image.fromarray(ids).resize((97, 97), Image.Resampling.BILINEAR)


def test_greys_that_are_neither_are_refused_with_their_values(tmp_path: Path) -> None:
    smooth_ids().save(tmp_path / "ids.png")
    with pytest.raises(MediaError, match=r"its \d+ grey values \(0, .*, \.\.\.\) are neither black and white nor"):
        load_annotated_ids(tmp_path / "ids.png")
    assert load_annotated_ids(tmp_path / "ids.png", of_one=True)[0].any()
    with pytest.raises(MediaError, match="neither black and white nor"):
        parse_mask(str(tmp_path / "ids.png"))
    assert parse_mask(f"3={tmp_path / 'ids.png'}")[0].object_id == 3
    for name, image in (("few.jpg", smooth_ids()), ("dark.jpg", Image.new("L", (20, 20), 3))):
        image.save(tmp_path / name)
        with pytest.raises(MediaError, match="grey value"):
            load_annotated_ids(tmp_path / name)
    clear = Image.new("RGBA", (9, 9), (255, 255, 255, 0))
    clear.save(tmp_path / "clear.png")
    with pytest.raises(MediaError, match="some here are transparent"):
        load_annotated_ids(tmp_path / "clear.png")
    disc().save(tmp_path / "mask.jpg")
    with pytest.raises(MediaError, match="a JPEG does not keep them exactly"):
        load_index_png(tmp_path / "mask.jpg")


def test_masks_are_turned_as_they_say(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    ids = np.zeros((4, 6), dtype=np.uint8)
    ids[0, 0] = 1
    Image.fromarray(ids).save(tmp_path / "mask.png", exif=exif)
    for read in (load_index_png(tmp_path / "mask.png"), load_annotated_ids(tmp_path / "mask.png")[0]):
        assert read.shape == (6, 4) and read[0, 3] == 1


def test_an_empty_name_of_a_mask_is_refused() -> None:
    with pytest.raises(PromptError, match="--mask is empty"):
        parse_mask(" ")
