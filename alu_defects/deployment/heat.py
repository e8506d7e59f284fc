"""A map of what a network looks at, drawn over the image; numpy and Pillow alone."""

import numpy as np
from numpy.typing import NDArray

from alu_defects.config import Size
from alu_defects.data.decode import UInt8, place_in_frame
from alu_defects.deployment.bundle import Cells

LARGEST_SIDE = 1024  # pixels of an image that a map is drawn over
_OPACITY = 0.7  # where the map is largest; where it is zero the image stays as it is
# matplotlib's inferno (Smith and van der Walt, CC0): as much brighter from each colour to the next. Between them no
# channel is further than 7 levels off
_COLOURS = (
    (0, 0, 4),
    (11, 7, 36),
    (33, 12, 74),
    (61, 9, 101),
    (87, 16, 110),
    (113, 25, 110),
    (138, 34, 106),
    (163, 44, 97),
    (188, 55, 84),
    (210, 70, 68),
    (228, 90, 49),
    (241, 115, 29),
    (249, 142, 9),
    (252, 172, 17),
    (249, 203, 53),
    (242, 234, 105),
    (252, 255, 164),
)
_LEVELS = np.linspace(0, 1, 256, dtype=np.float32)
_CLEARNESS = 1 - _OPACITY * _LEVELS[:, None]
_TABLE = np.stack(
    [np.interp(_LEVELS, np.linspace(0, 1, len(_COLOURS)), channel) for channel in zip(*_COLOURS, strict=True)], axis=1
).astype(np.float32) * (1 - _CLEARNESS)  # what each level adds to a pixel


def strength(maps: NDArray[np.floating]) -> NDArray[np.float32]:
    """Where maps (…, h, w) speak for their class, from 0 to 1: the positive part, as a share of the largest of all."""
    positive = np.asarray(maps, np.float32).clip(min=0)
    return np.asarray(positive / max(float(positive.max()), np.finfo(np.float32).tiny), np.float32)


def draw_heat(image: UInt8, heat: NDArray[np.float32], cells: Cells, frame: Size, resize: str) -> UInt8:
    """Draw a map over the image that the network saw in a frame.

    Args:
        image: upright and whole, of any size, (H, W, 3).
        heat: from 0 to 1, (h, w), of the whole frame, with what letterbox adds to the image.
        cells: where in the frame those of the map look.
        frame: its height and width: `Bundle.image_size`.
        resize: how the image came into it: `Bundle.resize`.

    Returns:
        The image (H, W, 3), with the colours of the map where it is not zero.
    """
    spread = spread_heat(heat, (image.shape[1], image.shape[0]), cells, frame, resize)
    levels = np.rint(spread * (len(_TABLE) - 1)).astype(np.uint8)
    return np.asarray(np.rint(image * _CLEARNESS[levels] + _TABLE[levels]), np.uint8)


def spread_heat(
    heat: NDArray[np.float32], whole: tuple[int, int], cells: Cells, frame: Size, resize: str
) -> NDArray[np.float32]:
    """A map of the frame as a map of the pixels of an image of the width and height `whole`, see `draw_heat`.

    Between the middles of cells it is interpolated, outside of them as in the next cell.
    """
    width, height = whole
    left, top, right, bottom = place_in_frame(whole, frame, resize)
    rows = top + (np.arange(height) + 0.5) * (bottom - top) / height - 0.5  # of the frame
    columns = left + (np.arange(width) + 0.5) * (right - left) / width - 0.5
    by_row = _interpolate(heat, (rows - cells.top) / cells.down)
    return _interpolate(by_row.T, (columns - cells.left) / cells.across).T


def _interpolate(heat: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of a map at places between them; those outside are the first and the last."""
    places = places.clip(0, len(heat) - 1)
    above = np.floor(places).astype(int)
    below = np.minimum(above + 1, len(heat) - 1)
    share = (places - above).astype(np.float32)[:, None]
    return np.asarray(heat[above] * (1 - share) + heat[below] * share)
