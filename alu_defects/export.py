"""Export a run for other runtimes: `python -m alu_defects.export run=runs/<run> format=onnx,openvino`."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from alu_defects.cli import verb
from alu_defects.config import check_settings, plain
from alu_defects.errors import UserError, check_choice, counted

if TYPE_CHECKING:  # torch takes seconds to import: --help and --cfg must not wait for it
    from alu_defects.deployment.exporting import Exported, Kind
    from alu_defects.deployment.parity import Parity

log = logging.getLogger(__name__)

_NOTE = (
    "On the val images, beside the run itself: how many get the same class, the largest difference of a probability, "
    "the macro F1 and what of it is lost, and how many defective images pass at the threshold. × eager: how many times "
    "as fast one image is decided as in PyTorch, here and then; `python -m alu_defects.benchmark what=infer run=<run>` "
    "measures it longer."
)


def export(config: DictConfig) -> "list[Exported]":
    """Write a trained network as ONNX or OpenVINO, if it decides on the val images as the run does.

    The files take decoded images and give calibrated probabilities; they hold all that deciding needs, and
    `alu_defects.predict` takes them as `run`. How they compare is written to export.md in their folder.

    Returns:
        How each file compares with the network it was made of.

    Raises:
        UserError: no such run, format or precision, images that are missing or have changed, or a file that decides
            otherwise, after the others were written.
    """
    import torch

    from alu_defects.benchmarking import inference
    from alu_defects.benchmarking.measurement import Table
    from alu_defects.deployment import exporting, torch_network
    from alu_defects.deployment.predictor import Predictor
    from alu_defects.runs.run import Run

    check_settings(config)
    kinds = _kinds(plain(config.formats), plain(config.precisions))
    run = Run.existing(config.run)
    bundle, network, file = torch_network.read(run.folder)
    predictor = Predictor(
        bundle, torch_network.computing(network, torch.device("cpu")), file, run.config().data.max_pixels
    )
    root = plain(config.data.root)
    images = run.images("val", root)
    if not images:
        raise UserError(f"{run.folder} has no val images, on which the files are compared with it")
    if unknown := sorted({label for _, label in images} - set(bundle.classes)):
        raise UserError(f"{run.catalog_file} has val images of {', '.join(unknown)}, {file} has no such class")
    calibration = []
    if any(kind.precision == "int8" for kind in kinds):
        calibration = [path for path, _ in run.images("train", root, config.calibration_images)]
        if len(calibration) < exporting.MIN_CALIBRATION:
            log.warning(
                "int8 takes the ranges of its numbers from %s; %s or more are better",
                counted(len(calibration), "training image"),
                exporting.MIN_CALIBRATION,
            )
    own = os.path.expanduser(config.output) if config.output else run.exports  # noqa: PTH111 (as of predict)
    output = Path(own).absolute()
    found = exporting.export(
        predictor,
        network,
        kinds,
        images,
        output,
        calibration=calibration,
        max_drop=config.max_drop,
        batch_size=config.batch_size,
    )
    pixels = bundle.image_size
    variants = inference.deciding_variants(network, [output / one.name for one in found if not one.refusal], pixels, 1)
    timed = inference.time_variants(bundle.about["model"], pixels, 1, variants, repeats=5, seconds=0.3)
    table = Table(f"files of {run.folder.name}", _rows(found, timed), _NOTE)
    (output / "export.md").write_text(f"{table.to_markdown()}\n", encoding="utf-8")
    for one in found:
        if not one.refusal:
            print(f"{output / one.name}: {_described(one.parity)}")
    if refusals := [one.refusal for one in found if one.refusal]:
        raise UserError("\n".join(refusals))
    return found


def _kinds(formats: list[str], precisions: list[str]) -> "list[Kind]":
    from alu_defects.deployment.exporting import FORMATS, PRECISIONS, Kind

    for key, names, known in (("formats", formats, FORMATS), ("precisions", precisions, PRECISIONS)):
        for name in names:
            check_choice(key, name, known)
        if not names:
            raise UserError(f"{key}=[] names none; give {' or '.join(known)}")
    every = dict.fromkeys(Kind(form, precision) for precision in precisions for form in formats)
    kinds = [kind for kind in every if kind != Kind("onnx", "bf16")]
    if not kinds:
        raise UserError("precision=bf16: there is no ONNX file in 16 bits; give format=openvino or precision=int8")
    return kinds


def _rows(found: "list[Exported]", timed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of export.md; `timed` are those of the files that were written, beside others."""
    faster = {row["variant"]: row["× eager"] for row in timed}
    return [
        {
            "file": one.name,
            "same class (%)": 100 * one.parity.agreement,
            "largest difference": one.parity.difference,
            "macro F1 (%)": 100 * one.parity.f1,
            "lost (%)": 100 * one.parity.drop,
            "escapes": one.parity.escapes,
            "MB": one.megabytes,
            "× eager": faster.get(one.name),
            "written": "no" if one.refusal else "yes",
        }
        for one in found
    ]


def _described(parity: "Parity") -> str:
    same = "the same class for all" if parity.agreement == 1 else f"the same class for {parity.agreement:.2%} of the"
    return f"{same} {parity.images} val images, probabilities differ by up to {parity.difference:.1g}"


@verb("export")
def main(config: DictConfig) -> None:
    """Export the run that the command line names."""
    export(config)


if __name__ == "__main__":
    main()
