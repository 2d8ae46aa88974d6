"""Files of samples carry the recipe that made them, and pixels keep their values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from condiff.tasks.pictures import content_of, fingerprint, mosaic, npz_bytes, picture, pixels, png_bytes, recipe_in

RECIPE = {"seed": 3, "name": "digits", "cond": {"label": [1, 2]}}


def test_pixels_round_and_clip():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0, -1.0 + 3.4 / 127.5]).reshape(1, 1, 1, 6)
    assert pixels(x)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 3]
    for shape in ((1, 2, 4, 4), (1, 4, 4)):
        with pytest.raises(ValueError, match="1 or 3"):
            pixels(torch.zeros(shape))


def test_a_mosaic_keeps_reading_order():
    images = torch.linspace(-1, 1, 6).reshape(6, 1, 1, 1).expand(6, 1, 300, 300)
    sheet = np.asarray(mosaic(images, columns=3))
    assert sheet.shape == (2 * 302 + 2, 3 * 302 + 2)
    middles = [sheet[2 + 302 * y + 150, 2 + 302 * x + 150] for y in range(2) for x in range(3)]
    assert middles == [0, 51, 102, 153, 204, 255]
    assert sheet[0, 0] == 96


def test_png_and_npz_carry_their_recipe_and_content(tmp_path):
    image = torch.rand(1, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    png, npz = tmp_path / "a.png", tmp_path / "a.npz"
    png.write_bytes(png_bytes(picture(pixels(image)[0]), RECIPE))
    npz.write_bytes(npz_bytes(image, RECIPE))
    assert recipe_in(png) == recipe_in(npz) == RECIPE
    assert np.array_equal(content_of(png), pixels(image)[0])
    assert np.array_equal(content_of(npz), image.numpy())
    assert fingerprint(png) != fingerprint(npz)


def test_files_without_a_recipe_say_so(tmp_path):
    bare, broken = tmp_path / "bare.png", tmp_path / "broken.png"
    mosaic(torch.zeros(1, 1, 4, 4)).save(bare)
    with pytest.raises(ValueError, match="carries no recipe"):
        recipe_in(bare)
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="damaged"):
        recipe_in(broken)
