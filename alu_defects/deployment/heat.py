"""A map of what a network looks at, drawn over the image; numpy and Pillow alone."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alu_defects.config import Size
from alu_defects.data.decode import UInt8, place_in_frame

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


def strength(class_map: NDArray[np.floating]) -> NDArray[np.float32]:
    """Where a map (h, w) speaks for its class, from 0 to 1: its positive part, as a share of the largest value."""
    positive = np.asarray(class_map, np.float32).clip(min=0)
    return positive / max(float(positive.max()), np.finfo(np.float32).tiny)


def draw_heat(image: UInt8, heat: NDArray[np.float32], frame: Size, resize: str) -> UInt8:
    """Draw a map over the image that the network saw in a frame.

    Args:
        image: upright and whole, of any size, (H, W, 3).
        heat: from 0 to 1, (h, w), of the whole frame, with what letterbox adds to the image.
        frame: height and width of what the network sees.
        resize: how the image came into it, see `data.decode.decode`.

    Returns:
        The image (H, W, 3), with the colours of the map where it is not zero.
    """
    spread = spread_heat(heat, (image.shape[1], image.shape[0]), frame, resize)
    steps = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(spread, steps, channel) for channel in zip(*_COLOURS, strict=True)], axis=2)
    opacity = _OPACITY * spread[:, :, None]
    return np.rint(image * (1 - opacity) + colours * opacity).astype(np.uint8)


def spread_heat(heat: NDArray[np.float32], whole: tuple[int, int], frame: Size, resize: str) -> NDArray[np.float32]:
    """A map of the frame as a map of the pixels of an image of the width and height `whole`, see `draw_heat`."""
    rows, columns = heat.shape
    down, across = rows / frame[0], columns / frame[1]
    left, top, right, bottom = place_in_frame(whole, frame, resize)
    box = left * across, top * down, right * across, bottom * down
    return np.asarray(Image.fromarray(heat).resize(whole, Image.Resampling.BILINEAR, box))
