"""A map lies on the image where the network has seen what it shows."""

import numpy as np
import pytest
from PIL import Image

from alu_defects.data.decode import decode, decode_to_show
from alu_defects.deployment.bundle import Cells
from alu_defects.deployment.heat import draw_heat, spread_heat, strength


@pytest.mark.parametrize("resize", ["squash", "letterbox"])
@pytest.mark.parametrize("whole", [(640, 480), (300, 900), (900, 100), (31, 47)])
@pytest.mark.parametrize("frame", [(64, 64), (64, 160)])
@pytest.mark.parametrize("turned", [False, True])
def test_heat_lies_on_the_place_that_is_hot_in_the_frame(tmp_path, *, resize, whole, frame, turned):
    """A bright square is decoded; the brightness of the frame, in cells of 4 pixels, is the map."""
    width, height = whole
    pixels = np.zeros((height, width), np.uint8)
    y, x, half = round(0.3 * height), round(0.8 * width), max(3, min(whole) // 8)
    pixels[max(0, y - half) : y + half, x - half : x + half] = 255
    image, exif = Image.fromarray(pixels), Image.Exif()
    if turned:  # the camera lay on its side
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    image.save(file := tmp_path / "square.png", exif=exif)
    seen = decode(file, frame, resize)[:, :, 0].astype(np.float32) / 255
    seen[decode(file, frame, resize)[:, :, 0] == 128] = 0  # the frame around it
    cells = seen.reshape(frame[0] // 4, 4, frame[1] // 4, 4).mean(axis=(1, 3))
    shown = decode_to_show(file, 10_000)
    assert shown.shape == (height, width, 3)
    found = spread_heat(strength(cells), whole, Cells(1.5, 1.5, 4, 4), frame, resize)
    rows, columns = np.mgrid[:height, :width]
    centre = ((found * rows).sum() / found.sum(), (found * columns).sum() / found.sum())
    expected = ((shown[:, :, 0] * 1.0 * rows).sum(), (shown[:, :, 0] * 1.0 * columns).sum()) / shown[:, :, 0].sum()
    np.testing.assert_allclose(centre, expected, atol=0.02 * max(whole))


def test_an_image_without_heat_stays_and_the_hottest_place_is_bright_yellow():
    image = np.full((44, 66, 3), 100, np.uint8)
    assert (draw_heat(image, strength(-np.ones((4, 6))), Cells(5, 5, 11, 11), (44, 66), "squash") == image).all()
    heat = np.zeros((4, 6), np.float32)
    heat[1, 4] = 3
    drawn = draw_heat(image, strength(heat), Cells(5, 5, 11, 11), (44, 66), "squash").astype(int)
    assert (drawn[33:] == 100).all()
    row, column = np.unravel_index(drawn.sum(axis=2).argmax(), drawn.shape[:2])
    assert (row, column) == (16, 49)  # the middle of its 11 pixels
    np.testing.assert_allclose(drawn[row, column], 0.3 * 100 + 0.7 * np.array([252, 255, 164]), atol=1)


def test_an_image_is_shown_in_its_shape_and_no_larger_than_asked(tmp_path):
    Image.fromarray(np.full((300, 900), 2**12 - 1, np.uint16)).save(file := tmp_path / "grey.png")
    shown = decode_to_show(file, 600, bits=12)
    assert shown.shape == (200, 600, 3)
    assert (shown == 255).all()
