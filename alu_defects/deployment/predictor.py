"""A trained network that decides on image files, whatever file it comes from."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alu_defects.config import Size
from alu_defects.data import decode
from alu_defects.deployment import heat
from alu_defects.deployment.bundle import Bundle, Cells, Decision, Network, Outputs
from alu_defects.errors import UserError
from alu_defects.evaluation.calibration import Floats

EXPORTED = (".onnx", ".xml")
_Image = tuple[decode.UInt8, decode.UInt8 | None]  # as the network sees it, and to draw on


def exported_files(folder: Path) -> list[Path]:
    """The .onnx and .xml files in a folder."""
    return sorted(file for suffix in EXPORTED for file in folder.glob(f"*{suffix}"))


def load_exported(path: Path, image_size: Size | None = None) -> tuple[Bundle, Network]:
    """The bundle and the network of an .onnx or .xml file; for images of another size where one is given."""
    if not path.is_file():
        raise UserError(f"run={path} is not there; give a run folder, a file of it, or an exported file")
    if path.suffix == ".onnx":
        from alu_defects.deployment import onnx_network

        return onnx_network.load(path)
    from alu_defects.deployment import openvino_network

    return openvino_network.load(path, image_size)


class Prediction(NamedTuple):
    """What became of one file: a decision, or the error."""

    path: str
    decision: Decision | None
    error: str = ""
    heat: decode.UInt8 | None = None  # the class-activation map of the label over the image (H, W, 3), if asked for


class Predictor:
    """Decides on images.

    Args:
        bundle: how they are decoded, and what the probabilities mean.
        network: gives these.
        source: the file of the network.
        max_pixels: that an image may have; a larger one is an error.
    """

    def __init__(self, bundle: Bundle, network: Network, source: Path, max_pixels: int = decode.MAX_PIXELS) -> None:
        self.bundle, self.source, self.max_pixels = bundle, source, max_pixels
        self._network = network

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", max_pixels: int = decode.MAX_PIXELS) -> "Predictor":
        """Load a network with all that it needs to decide.

        Args:
            path: a run folder, best.ckpt or model.safetensors in one, or an exported .onnx or .xml file.
            device: auto, cpu, cuda or cuda:1; exported files are computed on the processor.
            max_pixels: that an image may have.

        Raises:
            UserError: no such file, or one that is not of a trained network.
        """
        path = Path(os.path.expanduser(str(path)))  # noqa: PTH111 (which leaves ~ before an unknown name)
        if path.suffix in EXPORTED:
            bundle, network = load_exported(path)
        else:
            if find_spec("torch") is None:  # on a machine at the line
                raise UserError(
                    f"run={path} needs torch, which is not installed; give an exported file, as model_fp32.onnx"
                )
            from alu_defects.deployment import torch_network

            bundle, network, path = torch_network.load(path, device)
        return cls(bundle, network, path, max_pixels)

    def probabilities(self, images: decode.UInt8) -> Floats:
        """Calibrated probabilities (N, C) of decoded images, uint8 (N, H, W, 3)."""
        return self._compute(images, with_maps=False).probabilities

    def outputs(self, images: decode.UInt8) -> Outputs:
        """The same with the class-activation map of each class, where the network has them."""
        return self._compute(images, with_maps=True)

    def _compute(self, images: decode.UInt8, with_maps: bool) -> Outputs:
        found = self._network(images, with_maps)
        if not np.isfinite(found.probabilities).all():
            raise UserError(f"{self.source} gives no numbers (NaN): its training has diverged; take another run")
        return found._replace(probabilities=self.bundle.calibrate(found.probabilities))

    def read(self, file: Path | BinaryIO) -> decode.UInt8:
        """The pixels of an image as the network takes them, uint8 (H, W, 3); errors as of `data.decode.decode`."""
        bundle = self.bundle
        return decode.decode(file, bundle.image_size, bundle.resize, bundle.bits, self.max_pixels)

    def check_maps(self) -> None:
        """Raise a `UserError` if the network has no class-activation maps."""
        if self.bundle.cells is None:
            raise UserError(
                f"{self.source} has no class-activation maps: its network ({self.bundle.about.get('model')}) does not "
                "end in pooling and one linear layer, or it was exported by an earlier version"
            )

    def predict(
        self, files: Iterable[str | Path | BinaryIO], *, batch_size: int = 16, with_heat: bool = False
    ) -> Iterator[Prediction]:
        """Decide on files, in their order; one that cannot be decoded is a prediction with its error.

        Args:
            files: paths, or open files, which are named -.
            batch_size: images that the network sees at once.
            with_heat: draw the class-activation map of the label over each image, see `check_maps`.
        """
        sources = list(files)
        read = partial(self._read, to_show=with_heat)
        decoded = zip(sources, decode.read_in_order(read, sources, ahead=batch_size), strict=True)
        while batch := list(islice(decoded, batch_size)):
            yield from self.decide(batch)

    def _read(self, file: str | Path | BinaryIO, to_show: bool) -> _Image:
        content = io.BytesIO(decode.read_content(Path(file))) if isinstance(file, str | Path) else file
        return self.read(content), self.read_to_show(content) if to_show else None

    def read_to_show(self, file: Path | BinaryIO) -> decode.UInt8:
        """The pixels of an image in its own shape, uint8 (H, W, 3), to draw on; errors as of `read`."""
        return decode.decode_to_show(file, heat.LARGEST_SIDE, self.bundle.bits, self.max_pixels)

    def decide(self, batch: Sequence[tuple[Any, _Image | Exception]]) -> Iterator[Prediction]:
        """Decide on files by their pixels, or the error in place of them: all at once, in their order.

        Pixels are those of `read`, with those of `read_to_show` or None: then no map is drawn.
        """
        images = [image for _, image in batch if not isinstance(image, Exception)]
        decided = iter(self._decide_images(images) if images else ())
        for file, image in batch:
            name = str(file) if isinstance(file, str | Path) else "-"
            if isinstance(image, Exception):
                yield Prediction(name, None, f"{type(image).__name__}: {image}")
            else:
                yield Prediction(name, *next(decided))

    def _decide_images(self, images: Sequence[_Image]) -> Iterator[tuple[Decision, str, decode.UInt8 | None]]:
        pixels, shown = np.stack([image for image, _ in images]), [image for _, image in images]
        probabilities, maps = self._compute(pixels, with_maps=shown[0] is not None)
        for number, (decision, image) in enumerate(zip(self.bundle.decide(probabilities), shown, strict=True)):
            own = None if maps is None else maps[number, self.bundle.classes.index(decision.label)]
            yield decision, "", None if image is None or own is None else self.draw(image, own)

    def draw(self, image: decode.UInt8, class_map: NDArray[np.float32]) -> decode.UInt8:
        """A class-activation map (h, w) over an image of `read_to_show`."""
        assert self.bundle.cells is not None  # else there are no maps
        return self.draw_cells(image, heat.strength(class_map), self.bundle.cells)

    def draw_cells(self, image: decode.UInt8, strength: NDArray[np.float32], cells: Cells) -> decode.UInt8:
        """Any map (h, w) from 0 to 1 over an image of `read_to_show`."""
        return heat.draw_heat(image, strength, cells, self.bundle.image_size, self.bundle.resize)
