"""Export a run for other runtimes: `python -m alu_defects.export run=runs/<run> format=onnx,openvino`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from alu_defects.cli import verb
from alu_defects.config import check_settings, plain
from alu_defects.errors import UserError, check_choice

if TYPE_CHECKING:  # torch takes seconds to import: --help and --cfg must not wait for it
    from alu_defects.deployment.parity import Parity


def export(config: DictConfig) -> "dict[str, Parity]":
    """Write a trained network as ONNX or OpenVINO, if it decides on the val images as the run does.

    The files take decoded images and give calibrated probabilities; they hold all that deciding needs, and
    `alu_defects.predict` takes them as `run`.

    Returns:
        How each file compares with the network it was made of; by its name.

    Raises:
        UserError: no such run or format, val images that are missing or have changed, or a file that decides otherwise.
    """
    import torch

    from alu_defects.deployment import exporting, torch_network
    from alu_defects.deployment.predictor import Predictor
    from alu_defects.runs.run import Run

    check_settings(config)
    for form in plain(config.formats):
        check_choice("formats", form, exporting.FORMATS)
    if not (formats := list(dict.fromkeys(plain(config.formats)))):
        raise UserError(f"formats=[] names none; give {' or '.join(exporting.FORMATS)}")
    run = Run.existing(config.run)
    bundle, network, file = torch_network.read(run.folder)
    predictor = Predictor(
        bundle, torch_network.computing(network, torch.device("cpu")), file, run.config().data.max_pixels
    )
    if not (images := run.images("val", plain(config.data.root))):
        raise UserError(f"{run.folder} has no val images, on which the files are compared with it")
    if unknown := sorted({label for _, label in images} - set(bundle.classes)):
        raise UserError(f"{run.catalog_file} has val images of {', '.join(unknown)}, {file} has no such class")
    own = os.path.expanduser(config.output) if config.output else run.folder / "export"  # noqa: PTH111 (as of predict)
    output = Path(own).absolute()
    found = exporting.export(predictor, network, formats, images, output, batch_size=config.batch_size)
    for name, parity in found.items():
        print(
            f"{output / name}: the same class for all {parity.images} val images, probabilities differ by up to "
            f"{parity.difference:.1g}"
        )
    return found


@verb("export")
def main(config: DictConfig) -> None:
    """Export the run that the command line names."""
    export(config)


if __name__ == "__main__":
    main()
