"""Checkpoints: written whole or not at all, and read without running any code in them.

A checkpoint alone makes its classifier. Together with the run folder it makes a resumed run end with the same bits as
an uninterrupted one. Everything that this needs:

* The order of the images depends on (seed, epoch) alone: `data.loading.EpochSampler`, which `train._train` starts at
  the right epoch (`DefectData.first_epoch`).
* The augmentation depends on (seed, epoch, image) alone: `data.augment.uniforms`.
* PyTorch, from which dropout draws, is seeded at each epoch by (seed, epoch, rank): `callbacks.EpochSeed`.
* The number of threads of each epoch is recorded and repeated: `threads.Threads`.
* Precision and gradient accumulation, which `auto` may choose otherwise on another machine, are recorded and repeated:
  `trainer.repeat_precision`, `accumulation.accumulate_to_fit`. So are the bits of 16-bit images: `train._train`.
* The configuration is that of the run, except for options of the trainer: `runs.run.Run.resume`. The images must be
  those of the run: `Run.take_catalog`.
* A checkpoint is replaced whole or not at all: `AtomicIO`.
* last.ckpt is written at the end of an epoch, after its validation, so that a resumed run begins with a whole epoch:
  `last` in conf/callbacks/default.yaml. A learning-rate schedule has advanced by then: `optimization.create_scheduler`.
* The moving average of the weights is in the checkpoint, with the weights that are trained: `callbacks.EMA`.
* The number of skipped steps is in the checkpoint: `Classifier.on_save_checkpoint`.
* What is frozen depends on the number of the epoch alone: `callbacks.Finetuning`.
* A run whose patience had run out stops again: `callbacks.EarlyStopping`.
* Metrics that were logged after the last checkpoint are in it, and are logged again: `history.History.complete`.
* TensorBoard drops what it has of the interrupted epoch: `purge_step` in `trainer.create_loggers`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from alu_defects import io
from alu_defects.errors import UserError
from alu_defects.training.module import Classifier

# options of a model whose weights come from a checkpoint: nothing is downloaded, and its first file may be gone
WEIGHTS_INSIDE = {"pretrained": False, "weights": None}


def read_checkpoint(path: Path) -> dict[str, Any]:
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


def load_classifier(path: Path) -> Classifier:
    """Create the classifier in a checkpoint or a model.safetensors, in evaluation mode on the CPU.

    Raises:
        UserError: no such file, a file that is damaged, or one that holds something else.
    """
    if path.suffix == ".safetensors":
        return _load_weights(path)
    content = read_checkpoint(path)
    classifier = _create(content["hyper_parameters"], content["about"])
    classifier.load_state_dict(content["state_dict"])
    return classifier.eval()


def describe_model(
    classifier: Classifier, resize: str, bits: int, packages: Mapping[str, str], data_hash: str
) -> dict[str, Any]:
    """What the weights need beside the hyper-parameters, as plain values.

    `resize` brings images to image_size; 16-bit images are divided by 2^`bits` - 1. `mean` and `std` are of images in
    [0, 1].
    """
    mean, std = (buffer.flatten().tolist() for buffer in (classifier.mean, classifier.std))
    return {
        "resize": resize,
        "bits": bits,
        "mean": mean,
        "std": std,
        "packages": dict(packages),
        "data_hash": data_hash,
    }


def save_weights(classifier: Classifier, path: Path) -> None:
    """Write the network as .safetensors, with the hyper-parameters and `describe_model` as JSON in its metadata."""
    entries = {**classifier.hparams, **classifier.about}
    tensors = {name: value.contiguous() for name, value in classifier.backbone.state_dict().items()}
    content = save(tensors, {name: json.dumps(value, ensure_ascii=False) for name, value in entries.items()})
    with io.atomic_write(path) as file:
        file.write(content)


def _load_weights(path: Path) -> Classifier:
    try:
        with safe_open(path, "pt") as file:
            entries = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} cannot be read as the weights of a network: {error}") from error
    known = ("model", "classes", "class_counts", "image_size", "loss", "optimizer", "scheduler")
    if missing := [name for name in known if name not in entries]:
        raise UserError(f"{path} was not written by alu_defects.train: its metadata have no {', '.join(missing)}")
    options = {name: entries.pop(name) for name in known}
    classifier = _create(options, entries)
    classifier.backbone.load_state_dict(tensors)
    return classifier.eval()


def _create(options: Mapping[str, Any], about: dict[str, Any]) -> Classifier:
    classifier = Classifier(**{**options, "model": {**options["model"], **WEIGHTS_INSIDE}})
    classifier.about = about
    return classifier


class AtomicIO(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints: they are replaced whole or not at all, and reading runs no code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: it cannot be written; the previous one is as it was.
        """
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
    """Compare the classes of a checkpoint with those of the data.

    Raises:
        UserError: they differ.
    """
    saved = list(read_checkpoint(path)["hyper_parameters"]["classes"])
    if saved != classes:
        raise UserError(
            f"{path} was trained on the classes {', '.join(saved)}; the data have {', '.join(classes)}. "
            "Give the data of that run, or train again"
        )
