"""Checkpoints and weights of a run as a network that decides; the reference for all exported files."""

import logging
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from alu_defects import __version__
from alu_defects.data import decode
from alu_defects.deployment.bundle import Bundle, Cells, Network, Outputs
from alu_defects.deployment.graph import DecidingNetwork
from alu_defects.errors import UserError
from alu_defects.evaluation.operating import OperatingPoint
from alu_defects.runs.run import Run
from alu_defects.runs.starting_weights import describe
from alu_defects.tianchi_classes import CLASSES
from alu_defects.training.checkpoint import load_classifier
from alu_defects.training.module import Classifier

log = logging.getLogger(__name__)


def load(path: Path, device: str = "auto") -> tuple[Bundle, Network, Path]:
    """The bundle and the network of a run folder, or of best.ckpt or model.safetensors in one, and which file it is.

    Raises:
        UserError: no such file, no operating point beside it, or a device that is not there.
    """
    bundle, network, file = read(path)
    return bundle, computing(network, choose_device(device)), file


def read(path: Path) -> tuple[Bundle, DecidingNetwork, Path]:
    """As `load`, with the network as a module, in evaluation mode on the processor."""
    run = find_run(path)
    file = run.best if os.path.isdir(path) else path  # noqa: PTH112 (Path raises for names that are too long)
    classifier = load_classifier(file)
    point = OperatingPoint.load(run.operating_file)
    if point.classes != classifier.classes:
        raise UserError(
            f"{run.operating_file} is for the classes {', '.join(point.classes)}, {file} for "
            f"{', '.join(classifier.classes)}: they are of different runs"
        )
    network = DecidingNetwork(classifier, point).eval()
    return bundle_of(run, classifier, point, network.cells), network, file


def find_run(file: Path) -> Run:
    """The run in a folder, or whose folder holds a file."""
    if os.path.isdir(file):  # noqa: PTH112
        return Run.existing(file)
    if not os.path.isfile(file):  # noqa: PTH113
        raise UserError(f"run={file} is not there; give a run folder, or best.ckpt or model.safetensors in one")
    folder = next((one for one in file.absolute().parents[:2] if (one / "run.json").is_file()), None)
    if folder:
        run = Run.existing(folder)
        if file.name not in (run.best.name, run.weights.name):
            raise UserError(
                f"run={file}: operating.json is for {run.best.name} and {run.weights.name}; give run={folder}"
            )
        return run
    raise UserError(f"run={file} lies in no run folder, whose operating.json says how to decide; leave it in its run")


def bundle_of(run: Run, classifier: Classifier, point: OperatingPoint, cells: Cells | None) -> Bundle:
    """What a trained classifier needs beside its weights; `cells` are those of its class-activation maps."""
    about, status = classifier.about, run.status()
    chinese = {kind.name: kind.folder for kind in CLASSES}
    height, width = classifier.hparams["image_size"]
    return Bundle(
        classes=classifier.classes,
        titles=[chinese.get(name, name) for name in classifier.classes],
        image_size=(height, width),
        resize=about["resize"],
        bits=about["bits"],
        mean=about["mean"],
        std=about["std"],
        calibration=point.calibration,
        tta=point.tta,
        normal=point.normal,
        threshold=asdict(point.threshold) if point.threshold else None,
        ask_below=point.ask_below,
        about={
            "model": classifier.hparams["model"]["name"],
            "run": run.folder.resolve().name,
            "data_hash": about["data_hash"],
            "starting_weights": describe(status["weights"]),
            "licence": status["weights"].get("licence", ""),
            "version": __version__,
        },
        temperature_inside=point.calibration.temperature,
        cells=cells,
    )


def computing(network: DecidingNetwork, device: torch.device) -> Network:
    """The function that computes with a module on a device."""
    network.to(device)

    def compute(images: decode.UInt8, with_maps: bool) -> Outputs:
        with torch.inference_mode():
            probabilities, _, *maps = network(torch.from_numpy(images).to(device))
        own = np.asarray(maps[0].cpu()) if maps and with_maps else None
        return Outputs(np.asarray(probabilities.double().cpu()), own)

    return compute


def choose_device(name: str) -> torch.device:
    """The device of a name, or for auto a GPU where there is one; a `UserError` if it is not there."""
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()  # meta has no numbers
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(
            f"device={name} cannot be used here ({str(error).splitlines()[0]}); give auto or cpu"
        ) from error
    return device
