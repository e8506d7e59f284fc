"""The Lightning Trainer of a configuration: device, precision, callbacks, loggers."""

import logging
import math
import multiprocessing
import os
import shutil
import signal
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from inspect import signature
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from alu_defects.config import find_class, instantiate
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError, did_you_mean, of_other_processes
from alu_defects.learning import batch_memory, precision, threads
from alu_defects.learning.callbacks import Finetuning
from alu_defects.learning.checkpoint import AtomicIO
from alu_defects.learning.metrics import PER_CLASS, SUMMARY
from alu_defects.learning.module import STAGES, Classifier

log = logging.getLogger(__name__)


def check(options: Mapping[str, Any], callbacks: Mapping[str, Any], on_nonfinite: str = "error") -> None:
    """Refuse what would fail or mislead only after the training.

    Raises:
        UserError: no epochs, a precision that is not supported, several devices without trainer=ddp, steps that one of
            several processes alone would skip, no best checkpoint by a metric that is logged, a network that is frozen
            in a way that does not work, or what `create` refuses.
    """
    if options["max_epochs"] < 1:
        raise UserError(f"trainer.max_epochs={options['max_epochs']} must be 1 or more")
    precision.check(options["precision"])
    threads.check(options.get("threads", "auto"))
    if on_nonfinite == "skip" and options["strategy"] != "auto":
        raise UserError(
            "on_nonfinite=skip works in one process; with trainer=ddp take on_nonfinite=error and, against large "
            "gradients, trainer.gradient_clip_val=1"
        )
    for name, entry in callbacks.items():
        target = str((entry or {}).get("_target_"))
        if target.startswith("lightning.") and target.endswith("BackboneFinetuning"):
            raise UserError(
                f"callbacks.{name}._target_={target} freezes the classifier, too, which is inside the backbone; "
                "give callbacks=[default,finetuning] instead, which trains it first"
            )
        if target == f"{Finetuning.__module__}.{Finetuning.__qualname__}" and options["strategy"] != "auto":
            raise UserError(
                f"callbacks.{name} works in one process: several would wait for the gradients of what is "
                "frozen; remove trainer=ddp, or finetuning from callbacks"
            )
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
    launcher = create(options, callbacks, [], nn.Identity()).strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        raise UserError(
            f"trainer.devices={options['devices']} with trainer.strategy={options['strategy']} would start the whole "
            "command again in each process; add trainer=ddp, or take one device: trainer.devices=1, or the second GPU "
            "with trainer.devices=[1]"
        )


def _with_modes(callbacks: Mapping[str, Any]) -> dict[str, Any]:
    """The callbacks, with min or max instead of `mode: auto` or none: a loss is best where it is low, others high.

    Raises:
        UserError: a mode that would keep the worst epoch, or auto for a metric that is not ours.
    """
    found = dict(callbacks)
    for name, entry in callbacks.items():
        if entry and entry.get("monitor") and "mode" in signature(find_class(pl.Callback, entry)).parameters:
            monitor, mode = str(entry["monitor"]), entry.get("mode") or "auto"
            split, _, metric = monitor.partition("/")
            ours = split in STAGES and metric.split("/")[0] in ("loss", *SUMMARY)
            best = "min" if metric == "loss" else "max"
            if ours and mode not in (best, "auto"):
                raise UserError(
                    f"callbacks.{name}.mode={mode} would keep the worst epoch by {monitor}; give {best} or auto"
                )
            if not ours and mode == "auto":
                raise UserError(f"callbacks.{name}.monitor={monitor}: give callbacks.{name}.mode=min or max with it")
            found[name] = {**entry, "mode": best if ours else mode}
    return found


def on_one_device(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for an evaluation, which counts each image once: the first device of those that are asked for."""
    devices = options.get("devices", 1)
    if isinstance(devices, str) and "," in devices:  # as Lightning takes it
        devices = [int(number) for number in devices.split(",") if number.strip()]
    return {**options, "devices": devices[:1] if isinstance(devices, list) else 1, "strategy": "auto"}


def create(
    options: Mapping[str, Any],
    callbacks: Mapping[str, Any],
    loggers: list[Logger],
    network: nn.Module,
    folder: Path | None = None,
) -> pl.Trainer:
    """Make the trainer.

    Args:
        options: of lightning.pytorch.Trainer, and `threads`, which is not for it. `precision: auto` is what
            `precision.choose` says, `benchmark: auto` tries the convolutions of cuDNN unless they must be
            deterministic, and `accumulate_grad_batches: auto` is 1 until `fit_batch` has tried.
        callbacks: name → `_target_` and options; an entry that is null is skipped. `mode: auto` is min or max,
            whichever is best for its `monitor`.
        loggers: where metrics go.
        network: that is to be trained or evaluated.
        folder: where callbacks that name no folder write; None: nowhere.

    Raises:
        UserError: a device that is not there, or options that Lightning does not take.
    """
    # Lightning 2.6 asks torch 2.14 in the old way; nobody who trains can mend it
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
    # worker processes would only copy pictures that are in memory already
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    # that of a run that is resumed; another is never written into
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # on_nonfinite=skip says so itself
    warnings.filterwarnings("ignore", message=".*`training_step` returned `None`")
    options = {key: value for key, value in options.items() if key != "threads"}
    if options.get("accelerator") in ("gpu", "cuda") and not CUDAAccelerator.is_available():
        raise UserError(
            "trainer.accelerator=gpu, but there is no GPU that PyTorch can use; trainer=auto takes what is there"
        )
    if options.get("precision") == "auto":
        options["precision"] = precision.choose(network, str(options.get("accelerator", "auto")))
    if options.get("benchmark") == "auto":
        options["benchmark"] = not options.get("deterministic")
    if options.get("accumulate_grad_batches") == "auto":
        options["accumulate_grad_batches"] = 1
    entries = _with_modes(callbacks).values()
    # each command is a training of its own: Lightning would take it for a part of a SLURM job, as whose first process
    # alone it would log, and into which it would load any hpc_ckpt_*.ckpt that lies in its folder
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    try:
        instances = [instantiate(pl.Callback, entry) for entry in entries if entry is not None]
        if not options.get("enable_progress_bar", True):
            instances = [c for c in instances if not isinstance(c, pl.callbacks.ProgressBar)]
        # the loaders of DefectData divide the pictures among several processes themselves
        return pl.Trainer(
            **options,
            callbacks=instances,
            logger=loggers,
            plugins=[AtomicIO(), LightningEnvironment()],
            use_distributed_sampler=False,
            default_root_dir=folder or os.devnull,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer: {error}") from error


class GpuMemoryError(UserError):
    """A training step needs more memory than the GPU has."""


def fit(trainer: pl.Trainer, classifier: Classifier, data: DefectData, resumed_from: Path | None) -> None:
    """Train, and leave no process behind: those of ddp_spawn would train on when a signal ends this one.

    Raises:
        UserError: also that of one of them.
        GpuMemoryError: the memory of a GPU is too small, or something else has taken it.
    """
    try:
        with of_other_processes():
            trainer.fit(classifier, datamodule=data, ckpt_path=resumed_from, weights_only=True)
    except UserError:
        raise
    except Exception as error:
        # that of another process comes as the text of its traceback
        if not isinstance(error, torch.OutOfMemoryError) and f"{torch.OutOfMemoryError.__name__}: " not in str(error):
            raise
        size, parts = data.batch_size, trainer.accumulate_grad_batches
        taken = f"{size} images" if parts == 1 else f"{size} images (one of {parts} parts of a batch)"
        raise GpuMemoryError(f"a training step of {taken} does not fit into the memory of the GPU") from error
    finally:
        if launcher := trainer.strategy.launcher:
            launcher.kill(signal.SIGKILL)


def compiles(compile: bool | str, options: Mapping[str, Any]) -> bool:
    """Whether the training step is compiled, given true, false or auto: on a GPU, where there is a compiler.

    Raises:
        UserError: another word, or true where there is no compiler that torch.compile could use.
    """
    if compile not in (True, False, "auto"):
        raise UserError(f"compile={compile} is not true, false or auto")
    on_gpu = options.get("accelerator") != "cpu" and CUDAAccelerator.is_available()
    wanted = on_gpu if compile == "auto" else bool(compile)
    compilers = ("c++", "g++", "clang++", "cl")
    if not wanted or os.environ.get("CXX") or any(shutil.which(name) for name in compilers):
        return wanted
    if compile == "auto":
        log.info("compile=auto: there is no C++ compiler (%s), so nothing is compiled", ", ".join(compilers))
        return False
    raise UserError(f"compile={compile} needs a C++ compiler ({', '.join(compilers)}); install one or leave it out")


def as_before(options: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that goes on, in the precision that was chosen for it on the machine where it began."""
    return {**options, "precision": status.get("precision", "auto")} if options["precision"] == "auto" else {**options}


def fit_batch(trainer: pl.Trainer, classifier: Classifier, data: DefectData, parts: int | None) -> None:
    """Cut the batches into parts that fit into the memory of the GPU; on a processor they stay whole.

    A step still learns from `data.batch_size` pictures, or, where that does not divide, a few more; but batch
    normalisation sees the parts.

    Args:
        trainer: gets the number of parts.
        classifier: is tried out.
        data: gets the size of a part.
        parts: as many as a run that goes on was begun with; None: try.
    """
    device = trainer.strategy.root_device
    whole = data.batch_size
    if parts is None and device.type == "cuda":
        averages = any(isinstance(c, pl.callbacks.WeightAveraging) for c in trainer.callbacks)  # type: ignore[attr-defined]
        exchanges = trainer.strategy.launcher is not None
        trial = (classifier, data, device, str(trainer.precision), averages + exchanges)
        if exchanges:  # this process keeps no memory of a GPU on which one of those that train will need all of it
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                parts = pool.submit(_parts, *trial).result()
        else:
            parts = _parts(*trial)
    trainer.accumulate_grad_batches = parts = parts or 1
    data.batch_size = math.ceil(whole / parts)
    if data.batch_size < whole:
        if trainer.limit_train_batches == 1.0:  # as many steps as whole batches make: the schedule is laid out for them
            images = len(data.rows("train")) // trainer.world_size
            trainer.limit_train_batches = max(1, images // whole) * parts
        log.warning(
            "data.batch_size=%d does not fit into the memory of the GPU: %d parts of %d pictures",
            *(whole, trainer.accumulate_grad_batches, data.batch_size),
        )


def _parts(classifier: Classifier, data: DefectData, device: torch.device, amp: str, copies: int) -> int:
    data.place(device)  # what pixels take, the network cannot have
    autocast = {"bf16": torch.bfloat16, "16": torch.float16}.get(amp.removesuffix("-mixed"))
    return batch_memory.parts(
        batch_memory.trial(classifier, data.image_size, device, autocast, copies), data.batch_size
    )
