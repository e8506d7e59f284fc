"""The Lightning Trainer of a configuration: device, precision, callbacks, loggers."""

import logging
import math
import os
import shutil
import signal
import warnings
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from statistics import mean
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from alu_defects.config import find_class, instantiate
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError, did_you_mean, reraise_user_errors
from alu_defects.training import threads
from alu_defects.training.callbacks import Finetuning
from alu_defects.training.checkpoint import AtomicIO
from alu_defects.training.metrics import LOGGED_PER_CLASS, LOGGED_SPLITS, SUMMARY_METRICS
from alu_defects.training.module import Classifier

log = logging.getLogger(__name__)


def check_trainer(options: Mapping[str, Any], callbacks: Mapping[str, Any], on_nonfinite: str = "error") -> None:
    """Raise a `UserError` for what would fail or mislead only after the training."""
    check_precision(options["precision"])
    threads.check_threads(options["threads"])
    if on_nonfinite == "skip" and options["strategy"] != "auto":
        raise UserError(
            "on_nonfinite=skip works in one process; with trainer=ddp take on_nonfinite=error and, against large "
            "gradients, trainer.gradient_clip_val=1"
        )
    _check_callbacks(callbacks, options["strategy"] != "auto")
    if options["max_epochs"] != "auto":
        _check_validates(options["check_val_every_n_epoch"], options["max_epochs"])
    launcher = create_trainer(options, callbacks, [], nn.Identity()).strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        raise UserError(
            f"trainer.devices={options['devices']} with trainer.strategy={options['strategy']} would start the whole "
            "command again in each process; add trainer=ddp, or take one device: trainer.devices=1, or the second GPU "
            "with trainer.devices=[1]"
        )


def _check_validates(every: int, epochs: int) -> None:
    if every > epochs:
        raise UserError(
            f"trainer.check_val_every_n_epoch={every} is above the {epochs} epochs of the run: none would be validated"
        )


def _check_callbacks(callbacks: Mapping[str, Any], several_processes: bool) -> None:
    for name, entry in callbacks.items():
        target = str((entry or {}).get("_target_"))
        if target.startswith("lightning.") and target.endswith("BackboneFinetuning"):
            raise UserError(
                f"callbacks.{name}._target_={target} freezes the classifier, too, which is inside the backbone; "
                "give callbacks=[default,finetuning] instead, which trains it first"
            )
        if target == f"{Finetuning.__module__}.{Finetuning.__qualname__}" and several_processes:
            raise UserError(
                f"callbacks.{name} works in one process: several would wait for the gradients of what is "
                "frozen; remove trainer=ddp, or finetuning from callbacks"
            )
    if not {"best", "last"} <= set(callbacks):
        raise UserError("callbacks must hold best and last, as callbacks=[default] does; the best epoch is evaluated")
    monitors = [f"val/{name}" for name in ("loss", *SUMMARY_METRICS)]
    monitor = str(callbacks["best"]["monitor"])
    if monitor not in monitors and not monitor.startswith(tuple(f"val/{name}/" for name in LOGGED_PER_CLASS)):
        hint = did_you_mean(monitor, monitors)
        raise UserError(f"callbacks.best.monitor={monitor} is not logged{hint} There are: {', '.join(monitors)}")


def _with_modes(callbacks: Mapping[str, Any]) -> dict[str, Any]:
    """The callbacks with min or max instead of `mode: auto` or none: the best loss is low, all other metrics high."""
    found = dict(callbacks)
    for name, entry in callbacks.items():
        if entry and entry.get("monitor") and "mode" in signature(find_class(pl.Callback, entry)).parameters:
            monitor, mode = str(entry["monitor"]), entry.get("mode") or "auto"
            split, _, metric = monitor.partition("/")
            ours = split in LOGGED_SPLITS and metric.split("/")[0] in ("loss", *SUMMARY_METRICS)
            best = "min" if metric == "loss" else "max"
            if ours and mode not in (best, "auto"):
                raise UserError(
                    f"callbacks.{name}.mode={mode} would keep the worst epoch by {monitor}; give {best} or auto"
                )
            if not ours and mode == "auto":
                raise UserError(f"callbacks.{name}.monitor={monitor}: give callbacks.{name}.mode=min or max with it")
            found[name] = {**entry, "mode": best if ours else mode}
    return found


def single_device(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for an evaluation, which counts each image once: the first of the devices."""
    devices = options.get("devices", 1)
    if isinstance(devices, str) and "," in devices:  # as Lightning takes it
        devices = [int(number) for number in devices.split(",") if number.strip()]
    return {**options, "devices": devices[:1] if isinstance(devices, list) else 1, "strategy": "auto"}


def create_trainer(
    options: Mapping[str, Any],
    callbacks: Mapping[str, Any],
    loggers: list[Logger],
    network: nn.Module,
    folder: Path | None = None,
) -> pl.Trainer:
    """Create the trainer; what is not there, or what Lightning does not take, is a `UserError`.

    Args:
        options: of lightning.pytorch.Trainer, and `threads`, which is ignored. `precision: auto` is that of
            `choose_precision`, `benchmark: auto` lets cuDNN try its convolutions unless they must be deterministic, and
            `accumulate_grad_batches: auto` is 1 until `accumulate_to_fit` has tried, and so is `max_epochs: auto` until
            `set_epochs` knows the number of images.
        callbacks: name → `_target_` and options; null is skipped; `mode: auto` is what is best for its `monitor`.
        loggers: of the run.
        network: to be trained or evaluated.
        folder: where callbacks without a folder of their own write; None: nowhere.
    """
    for harmless in (
        ".*LeafSpec.*is deprecated",  # Lightning 2.6 asks torch 2.14 in the old way; nobody who trains can fix it
        ".*does not have many workers",  # they would only copy images that are in memory already
        "Checkpoint directory .* exists and is not empty",  # of a resumed run; no other folder is written into
        ".*`training_step` returned `None`",  # on_nonfinite=skip says so itself
    ):
        warnings.filterwarnings("ignore", message=harmless)
    options = {key: value for key, value in options.items() if key != "threads"}
    if options.get("accelerator") in ("gpu", "cuda") and not CUDAAccelerator.is_available():
        raise UserError(
            "trainer.accelerator=gpu, but there is no GPU that PyTorch can use; trainer=auto takes what is there"
        )
    chosen: dict[str, Any] = {"benchmark": not options.get("deterministic")}
    chosen |= {"accumulate_grad_batches": 1, "max_epochs": 1}
    if options.get("precision") == "auto":
        chosen["precision"] = choose_precision(network, str(options.get("accelerator", "auto")))
    options |= {key: value for key, value in chosen.items() if options.get(key) == "auto"}
    entries = _with_modes(callbacks).values()
    # Inside a SLURM allocation Lightning would take this process for one of a distributed job: only the first would
    # log, and any hpc_ckpt_*.ckpt in the working directory would be loaded.
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    try:
        instances = [instantiate(pl.Callback, entry) for entry in entries if entry is not None]
        if not options.get("enable_progress_bar", True):
            instances = [c for c in instances if not isinstance(c, pl.callbacks.ProgressBar)]
        # the loaders of DefectData divide the images among several processes themselves
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


MIN_EPOCHS = 5  # however many images there are: a network must see each more than once


def set_epochs(trainer: pl.Trainer, images: int, batch_size: int, steps: int) -> None:
    """Give a trainer the whole epochs that reach a number of optimizer steps, and `MIN_EPOCHS` at least.

    `images` train in batches of `batch_size`. Where no epoch would be validated, a `UserError`.
    """
    batches, limit = max(1, images // trainer.world_size // batch_size), trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
    epochs = max(MIN_EPOCHS, math.ceil(steps / math.ceil(batches / trainer.accumulate_grad_batches)))
    _check_validates(trainer.check_val_every_n_epoch or 1, epochs)
    trainer.fit_loop.max_epochs = epochs


def create_loggers(entries: Mapping[str, Any], folder: Path, first_epoch: int) -> list[Logger]:
    """Create the loggers of a configuration; an entry that is null is skipped, one that does not work a `UserError`.

    A logger without a `save_dir` writes into a folder of its name in the run folder. `first_epoch` is of a resumed run:
    TensorBoard drops what it has of this epoch and later ones.
    """
    loggers = []
    for name, entry in entries.items():
        if entry is None:
            continue
        found, options = find_class(Logger, entry), dict(entry)  # type: ignore[type-abstract]
        if "save_dir" in signature(found).parameters:
            options.setdefault("save_dir", str(folder / name))
        if issubclass(found, TensorBoardLogger):
            options["purge_step"] = first_epoch
        try:
            loggers.append(instantiate(Logger, options))  # type: ignore[type-abstract]
        except UserError as error:
            if isinstance(error.__cause__, ImportError):
                raise UserError(f"logger={name}: {error.__cause__}; or pip install 'alu-defects[{name}]'") from error
            raise
    return loggers


class GpuMemoryError(UserError):
    """A training step needs more memory than the GPU has."""


def fit(trainer: pl.Trainer, classifier: Classifier, data: DefectData, resumed_from: Path | None) -> None:
    """Train, and leave no process behind: those of ddp_spawn would continue when a signal ends this one.

    Raises:
        UserError: also that of another process.
        GpuMemoryError: the memory of a GPU is too small, or other programs use it.
    """
    try:
        with reraise_user_errors():
            trainer.fit(classifier, datamodule=data, ckpt_path=resumed_from, weights_only=True)
    except UserError:
        raise
    except Exception as error:
        # the error of another process comes as the text of its traceback
        if not isinstance(error, torch.OutOfMemoryError) and f"{torch.OutOfMemoryError.__name__}: " not in str(error):
            raise
        parts = trainer.accumulate_grad_batches
        taken = f"{data.batch_size} images" + ("" if parts == 1 else f" (one of {parts} parts of a batch)")
        raise GpuMemoryError(f"a training step of {taken} does not fit into the memory of the GPU") from error
    finally:
        if launcher := trainer.strategy.launcher:
            launcher.kill(signal.SIGKILL)


def should_compile(compile: bool | str, options: Mapping[str, Any]) -> bool:
    """Whether to compile the training step; auto: on a GPU with a C++ compiler; true without one is a `UserError`."""
    if compile not in (True, False, "auto"):
        raise UserError(f"compile={compile} is not true, false or auto")
    on_gpu = options.get("accelerator") != "cpu" and CUDAAccelerator.is_available()
    wanted, compilers = on_gpu if compile == "auto" else bool(compile), ("c++", "g++", "clang++", "cl")
    if not wanted or os.environ.get("CXX") or any(map(shutil.which, compilers)):
        return wanted
    if compile == "auto":
        log.info("compile=auto: there is no C++ compiler (%s), so nothing is compiled", ", ".join(compilers))
        return False
    raise UserError(
        f"compile={compile} needs a C++ compiler ({', '.join(compilers)}); install one, or give compile=false"
    )


def repeat_precision(options: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the recorded precision of a run instead of auto, which another machine may choose otherwise."""
    return {**options, "precision": status.get("precision", "auto")} if options["precision"] == "auto" else {**options}


# Products summed up in an output value of a layer, as the mean over the layers. On two cores with native bf16, training
# with bf16-mixed was 1.35 times as fast as fp32 for Inception V4 (1,138 products), 1.84 for Xception (359) and 0.85 for
# ShuffleNet-V2 (109), whose layers move numbers more than they multiply.
MIN_PRODUCTS = 300

# not bf16-true and 16-true, since batch statistics and metrics are float32; nor 64-true, which not every device has
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


def check_precision(precision: str | int) -> None:
    """Raise a `UserError` if it is none of `PRECISIONS`, nor short for one of them: 32, bf16, 16."""
    if str(precision) not in (*PRECISIONS, "32", "bf16", "16"):
        raise UserError(f"trainer.precision={precision} is not supported. There are: {', '.join(PRECISIONS)}")


def choose_precision(network: nn.Module, accelerator: str) -> str:
    """The precision of `trainer.precision=auto`: bf16-mixed on a device with instructions for it, else 32-true.

    On a CPU also the network must be heavy enough, see `MIN_PRODUCTS`.
    """
    kind = device_type(accelerator)
    heavy = kind == "cuda" or mean_products(network) >= MIN_PRODUCTS
    return "bf16-mixed" if native_bf16(kind) and heavy else "32-true"


def device_type(accelerator: str) -> str:
    """The kind of device of an `accelerator` of the trainer: cuda, mps, cpu, or an unknown word itself."""
    if accelerator in ("auto", "gpu", "cuda") and CUDAAccelerator.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and MPSAccelerator.is_available():
        return "mps"
    return "cpu" if accelerator == "auto" else accelerator


def native_bf16(device_type: str) -> bool:
    """Whether a kind of device has instructions for bf16; emulated on a CPU it takes twice the time of fp32."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device_type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def computes_on(accelerator: str, precision: str | int) -> str:
    """The kind of device; where `precision` is auto, also whether it has bf16, which decides the precision."""
    kind = device_type(accelerator)
    return f"{kind} with bf16" if precision == "auto" and native_bf16(kind) else kind


def mean_products(network: nn.Module) -> float:
    """Products summed up in an output value, as the mean over the convolutions and linear layers."""
    layers = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return mean(weight[0].numel() for weight in layers) if layers else 0.0
