"""The Lightning Trainer of a configuration: device, precision, callbacks, loggers."""

import warnings
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.loggers import Logger

from alu_defects.config import instantiate
from alu_defects.errors import UserError, did_you_mean
from alu_defects.learning.metrics import PER_CLASS, SUMMARY


def check(options: Mapping[str, Any], callbacks: Mapping[str, Any]) -> None:
    """Refuse what would fail or mislead only after the training.

    Raises:
        UserError: no epochs, several devices without ddp, or no best checkpoint by a metric that is logged.
    """
    if options["max_epochs"] < 1:
        raise UserError(f"trainer.max_epochs={options['max_epochs']} must be 1 or more")
    if options["devices"] not in (1, "1", "auto") and options["strategy"] == "auto":
        raise UserError(f"trainer.devices={options['devices']} takes several processes; add trainer=ddp")
    if not {"best", "last"} <= set(callbacks):
        raise UserError(
            "callbacks must hold best and last, as callbacks=[default] does; a run is judged by its best epoch"
        )
    monitors = [f"val/{name}" for name in ("loss", *SUMMARY)]
    monitor = str(callbacks["best"]["monitor"])
    if monitor not in monitors and not monitor.startswith(tuple(f"val/{name}/" for name in PER_CLASS)):
        hint = did_you_mean(monitor, monitors)
        raise UserError(f"callbacks.best.monitor={monitor} is not logged{hint} There are: {', '.join(monitors)}")
    if options["check_val_every_n_epoch"] > options["max_epochs"]:
        raise UserError("trainer.check_val_every_n_epoch is above trainer.max_epochs: no epoch would be validated")


def create(options: Mapping[str, Any], callbacks: Mapping[str, Any], loggers: list[Logger]) -> pl.Trainer:
    """Make the trainer.

    Args:
        options: of lightning.pytorch.Trainer; `precision: auto` is bf16-mixed where the GPU has it, else 32-true.
        callbacks: name → `_target_` and options; an entry that is null is left out.
        loggers: where metrics go.

    Raises:
        UserError: a device that is not there, or options that Lightning does not take.
    """
    # Lightning 2.6 asks torch 2.14 in the old way; nobody who trains can mend it
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
    # worker processes would only copy pictures that are in memory already
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    options = dict(options)
    if options.get("accelerator") in ("gpu", "cuda") and not CUDAAccelerator.is_available():
        raise UserError(
            "trainer.accelerator=gpu, but there is no GPU that PyTorch can use; trainer=auto takes what is there"
        )
    if options.get("precision") == "auto":
        on_gpu = options.get("accelerator") != "cpu" and CUDAAccelerator.is_available()
        options["precision"] = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    instances = [instantiate(entry) for entry in callbacks.values() if entry is not None]
    if not options.get("enable_progress_bar", True):
        instances = [c for c in instances if not isinstance(c, pl.callbacks.ProgressBar)]
    try:
        return pl.Trainer(**options, callbacks=instances, logger=loggers)
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer: {error}") from error
