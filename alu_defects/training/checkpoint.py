"""Checkpoints: written whole or not at all, and read without running any code in them.

A checkpoint alone makes its classifier. With its run folder it makes a resumed run end with the same bits as an
uninterrupted one. Everything that this needs:

* Order, augmentation and dropout depend on (seed, epoch) alone: the samplers of `data.loading`, which start at
  `DefectData.first_epoch`, `data.augment.augmentation_numbers`, `callbacks.EpochSeed`; what is frozen depends on the
  epoch: `callbacks.Finetuning`.
* What `auto` chose is recorded and repeated: `threads.Threads`, `trainer.repeat_precision`,
  `accumulation.accumulate_to_fit`, and the bits of 16-bit images in `train._train`.
* Configuration and images are those of the run, except for options of the trainer: `Run.resume`, `Run.take_catalog`.
* last.ckpt is written whole or not at all (`AtomicIO`) at the end of an epoch, after its validation (conf/callbacks),
  when the learning-rate schedule has advanced (`optimization.create_scheduler`).
* It holds the moving average (`callbacks.EMA`), the number of skipped steps and the metrics that are logged after it
  (`Classifier.on_save_checkpoint`, `history.History.complete`). TensorBoard drops later ones: `trainer.create_loggers`.
* A run whose patience had run out stops again: `callbacks.EarlyStopping`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from alu_defects import io
from alu_defects.errors import UserError
from alu_defects.training.module import Classifier

# options of a model whose weights come from a checkpoint: nothing is downloaded, and its first file may be gone
WEIGHTS_INSIDE = {"pretrained": False, "weights": None}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint written by Lightning; one that is missing, damaged or more than plain data is a `UserError`."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; the run has not finished its first epoch") from error
    except Exception as error:  # a damaged file makes the unpickler raise almost anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not a checkpoint that can be loaded safely: {reason}") from error
    options = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(options, dict) or not {"model", "classes"} <= options.keys() or "state_dict" not in content:
        raise UserError(f"{path} is not a checkpoint of alu_defects.train")
    return content


def load_classifier(path: Path) -> Classifier:
    """The classifier in a checkpoint or model.safetensors, in evaluation mode on the CPU; others are a `UserError`."""
    if path.suffix == ".safetensors":
        options, about, state = _read_weights(path)
    else:
        content = read_checkpoint(path)
        options, about, state = content["hyper_parameters"], content["about"], content["state_dict"]
    classifier = Classifier(**{**options, "model": {**options["model"], **WEIGHTS_INSIDE}})
    classifier.about = about
    classifier.load_state_dict(state)
    return classifier.eval()


def describe_model(
    classifier: Classifier, resize: str, bits: int, packages: Mapping[str, str], data_hash: str
) -> dict[str, Any]:
    """What the weights need beside the hyper-parameters, as plain values.

    `resize` brings images to image_size; 16-bit images are divided by 2^`bits` - 1; `mean` and `std` are of [0, 1].
    """
    mean, std = (buffer.flatten().tolist() for buffer in (classifier.mean, classifier.std))
    packages = dict(packages)
    return {"resize": resize, "bits": bits, "mean": mean, "std": std, "packages": packages, "data_hash": data_hash}


def save_weights(classifier: Classifier, path: Path) -> None:
    """Write the network as .safetensors, with the hyper-parameters and `describe_model` as JSON in its metadata."""
    entries = {**classifier.hparams, **classifier.about}
    tensors = {name: value.contiguous() for name, value in classifier.backbone.state_dict().items()}
    content = save(tensors, {name: json.dumps(value, ensure_ascii=False) for name, value in entries.items()})
    with io.atomic_write(path) as file:
        file.write(content)


def _read_weights(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            entries = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            state = {f"backbone.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} cannot be read as the weights of a network: {error}") from error
    known = ("model", "classes", "class_counts", "image_size", "loss", "optimizer", "scheduler")
    if missing := [name for name in known if name not in entries]:
        raise UserError(f"{path} was not written by alu_defects.train: its metadata have no {', '.join(missing)}")
    return {name: entries.pop(name) for name in known}, entries, state


class AtomicIO(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints: they are replaced whole or not at all, and reading runs no code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; if that fails (`UserError`), the previous one is as it was."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with io.atomic_write(path) as file:
                _save(checkpoint, file)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}); the previous checkpoint is as it was. "
                "Make room and continue with resume=<run>"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint with plain data alone, whatever is asked for."""
        return super().load_checkpoint(path, map_location, weights_only=True)


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:  # of torch, when it cannot end a file whose writing failed or was interrupted
        cause = error.__context__
        raise (cause if isinstance(cause, (OSError, KeyboardInterrupt, SystemExit)) else error) from None


def check_classes(path: Path, classes: list[str]) -> None:
    """Raise a `UserError` if the classes of a checkpoint are not those of the data."""
    saved = list(read_checkpoint(path)["hyper_parameters"]["classes"])
    if saved != classes:
        raise UserError(
            f"{path} was trained on the classes {', '.join(saved)}; the data have {', '.join(classes)}. "
            "Give the data of that run, or train again"
        )
