"""A checkpoint file → a classifier, with no other file and without running anything in it."""

from pathlib import Path
from typing import Any

import torch

from alu_defects.errors import UserError
from alu_defects.learning.module import Classifier

# options of a model whose weights come from a checkpoint: nothing to download, and the file of then may be gone
WEIGHTS_INSIDE = {"pretrained": False, "weights": None}


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint written by Lightning.

    Raises:
        UserError: no such file, a file that is damaged, or one that holds more than plain data.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; the run has not finished its first epoch") from error
    except Exception as error:  # a damaged file makes the unpickler raise almost anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is not a checkpoint that can be loaded safely: {reason}") from error
    options = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(options, dict) or not {"model", "classes"} <= options.keys() or "state_dict" not in content:
        raise UserError(f"{path} is not a checkpoint of alu_defects.train")
    return content


def load(path: Path) -> Classifier:
    """Make the classifier that a checkpoint holds, in evaluation mode on the CPU."""
    content = read(path)
    options = dict(content["hyper_parameters"])
    options["model"] = {**options["model"], **WEIGHTS_INSIDE}
    classifier = Classifier(**options)
    classifier.load_state_dict(content["state_dict"])
    return classifier.eval()


def check_classes(path: Path, classes: list[str]) -> None:
    """Compare the classes of a checkpoint with those of the data.

    Raises:
        UserError: they differ.
    """
    saved = list(read(path)["hyper_parameters"]["classes"])
    if saved != classes:
        raise UserError(
            f"{path} was trained on the classes {', '.join(saved)}; the data have {', '.join(classes)}. "
            "Give the data of that run, or train anew"
        )
