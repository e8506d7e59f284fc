"""Where in the image the cells of a feature map look: they are not spread evenly over it.

A 3×3 convolution with stride 2 and padding 1 begins with its middle on the first pixel. After five of them, the middles
lie half a cell above and to the left of an even grid. Without padding no cell has its middle near the border.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from alu_defects.config import Size
from alu_defects.deployment.bundle import Cells

_Axis = dict[int, tuple[float, float]]  # cells of a map → the middle of the first in pixels, and their distance
_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


class Places:
    """Where the maps of a network look, by their size; maps of one size look at the same places."""

    def __init__(self, image_size: Size) -> None:
        self.image_size = image_size
        self._axes: tuple[_Axis, _Axis] = ({image_size[0]: (0.0, 1.0)}, {image_size[1]: (0.0, 1.0)})

    def cells(self, height: int, width: int) -> Cells:
        """The places of a map; evenly spread if the network makes it without a module that says how."""
        found = []
        for axis, count, pixels in zip(self._axes, (height, width), self.image_size, strict=True):
            even = pixels / count
            found.append(axis.get(count, (even / 2 - 0.5, even)))
        (top, down), (left, across) = found
        return Cells(top, left, down, across)

    def note(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """A forward hook: where the cells of the output look, if that is known of the input."""
        if not inputs or output.ndim != 4:  # given by name, or of one image
            return
        for dimension, axis in enumerate(self._axes):
            before, after = inputs[0].shape[2 + dimension], output.shape[2 + dimension]
            if before in axis and after not in axis:
                window, stride, padding, dilation = (
                    _along(getattr(module, name, 1), dimension)
                    for name in ("kernel_size", "stride", "padding", "dilation")
                )
                reach = dilation * (window - 1)
                if type(module).__name__.endswith("Same"):  # timm's, as in TensorFlow: pads when it is called
                    padding = max(0, (after - 1) * stride + reach + 1 - before) // 2
                first, distance = axis[before]
                axis[after] = first + (reach / 2 - padding) * distance, stride * distance


def _along(value: Any, dimension: int) -> int:
    return int(value[dimension] if isinstance(value, tuple) else value)


@contextmanager
def watch_places(network: nn.Module, image_size: Size) -> Iterator[Places]:
    """The places of all maps that the network makes inside, of images of a size."""
    places = Places(image_size)
    windows = [module for module in network.modules() if isinstance(module, _WINDOWS)]
    hooks = [module.register_forward_hook(places.note) for module in windows]
    try:
        yield places
    finally:
        for hook in hooks:
            hook.remove()
