"""What a training step costs: by itself, fed with images, and in the whole of Lightning."""

import copy
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from rich.progress import track
from torch import Tensor

from alu_defects.benchmarking import memory
from alu_defects.benchmarking.inference import gmacs
from alu_defects.benchmarking.results import Table
from alu_defects.benchmarking.timing import Spread, ratio, turns
from alu_defects.config import backbone_options, plain, whole_numbers
from alu_defects.data.augment import Augment, as_float, uniforms
from alu_defects.data.datamodule import DefectData
from alu_defects.data.loading import Batch
from alu_defects.errors import UserError
from alu_defects.training import optimization, threads, trainer
from alu_defects.training.history import History
from alu_defects.training.module import Classifier

EAGER, FIXED, FED, LIGHTNING = "eager", "1 fixed", "2 fed", "3 Lightning"
_NOTE = (
    "img/s of training, batch {batch}. eager: the same network in float32 and NCHW with PyTorch's default optimiser "
    "kernel, on one batch; 1: our step on one batch that is on the {device} already; 2: fed by the data "
    "path, augmented; 3: with Lightning, metrics and logging. Median (range) of {repeats} interleaved rounds of all "
    "networks; ratios round by round."
)

Run = Callable[[int], float]  # seconds of a number of steps


def measure(config: DictConfig, models: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Measure the training of networks at `config.image_sizes`.

    Args:
        config: conf/benchmark.yaml, composed.
        models: what a network is called in the tables → its group `model`.

    Raises:
        UserError: an unknown network, an image too small for one, or settings of the data that cannot be.
    """
    threads.set_threads(config.trainer.threads)
    return [_measure(config, models, pixels) for pixels in whole_numbers(config, "image_sizes")]


def _measure(config: DictConfig, models: Mapping[str, Mapping[str, Any]], pixels: int) -> Table:
    options = {**plain(config.data), "image_size": pixels}
    data = DefectData(**options, split=plain(config.split), augment=plain(config.augment), seed=0)
    data.prepare_data()
    data.setup("fit")
    if len(data.train_dataloader()) < 2:
        raise UserError(f"data.batch_size={data.batch_size} leaves fewer than two batches to train on; lower it")
    torch._dynamo.reset()  # networks of one class share a cache of few entries, and run eagerly when it is full
    loops: dict[tuple[str, str], Run] = {}
    rows: dict[str, dict[str, Any]] = {}
    steps: dict[str, int] = {}
    for name, model in models.items():
        pl.seed_everything(0, verbose=False)
        classifier = _classifier(config, model, data)
        fit = trainer.create_trainer({**plain(config.trainer), "max_epochs": 1}, {}, [], classifier.backbone)
        device = fit.strategy.root_device
        data.move_pixels(device)
        data.setup("fit")
        macs = gmacs(classifier.backbone.eval(), pixels)
        classifier.backbone.train()
        rows[name] = {
            "network": name,
            "precision": str(fit.precision),
            "parameters (M)": sum(p.numel() for p in classifier.backbone.parameters()) / 1e6,
            "GMACs": macs,
        }
        held = memory.Peak(device)
        for kind, run in _loops(config, classifier, data, device, str(fit.precision)):
            run(2)  # allocates, chooses kernels, compiles; the second finds the optimizer's state in memory
            loops[name, kind] = run
            if kind == FIXED:
                rows[name]["memory (MB)"] = held.above() / 1e6
        steps[name] = max(1, math.ceil(config.seconds / loops[name, FIXED](1)))
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in loops}
    order = list(turns(loops, config.repeats))
    for name, kind in track(order, f"training at {pixels} pixels", disable=not config.trainer.enable_progress_bar):
        seconds[name, kind].append(loops[name, kind](steps[name]) / steps[name])
    step = {key: np.array(values) for key, values in seconds.items()}
    peak = {amp: matrix_peak(device, amp) for amp in {row["precision"] for row in rows.values()}}
    for name, row in rows.items():
        for kind in (EAGER, FIXED, FED, LIGHTNING):
            row[f"{kind} (img/s)"] = Spread.of(data.batch_size / step[name, kind])
        row["1 / eager"] = ratio(step[name, EAGER], step[name, FIXED])
        row["2 / 1"] = ratio(step[name, FIXED], step[name, FED])
        row["3 / 2"] = ratio(step[name, FED], step[name, LIGHTNING])
        # forward, and backward to inputs and to weights
        operations = 3 * 2 * row["GMACs"] * 1e9 * data.batch_size
        row["share of the matrix peak"] = float(operations / np.median(step[name, FIXED]) / peak[row["precision"]])
    note = _NOTE.format(batch=data.batch_size, device=device.type, repeats=config.repeats)
    return Table(f"training at {pixels}×{pixels} on {device.type}", pd.DataFrame(list(rows.values())), note)


def _classifier(config: DictConfig, model: Mapping[str, Any], data: DefectData) -> Classifier:
    whole = OmegaConf.create({"model": dict(model), "optimizer": config.optimizer})
    return Classifier(
        model=backbone_options(model),
        classes=data.classes,
        class_counts=data.class_counts(),
        image_size=data.image_size,
        loss=plain(config.loss),
        optimizer=plain(whole.optimizer),
        scheduler=plain(config.scheduler),
        compile=trainer.should_compile(config.compile, plain(config.trainer)),
    )


def _loops(
    config: DictConfig, classifier: Classifier, data: DefectData, device: torch.device, amp: str
) -> Iterator[tuple[str, Run]]:
    """Ours first, so that its memory can be told from that of the others."""
    batches = _endless(data, device)
    fixed = next(batches)
    ours = copy.deepcopy(classifier).to(device).train()
    ours.on_fit_start()
    step = _step(lambda batch: ours(batch["image"]), ours, {}, amp.startswith("bf16"))
    yield FIXED, _timed(step, lambda: fixed, device)
    yield FED, _timed(step, lambda: next(batches), device)
    yield LIGHTNING, lambda steps: _lightning(config, classifier, data, steps)
    plainly = copy.deepcopy(classifier).to(device).train()
    plainly.backbone.to(memory_format=torch.contiguous_format)
    images = fixed["image"] if fixed["image"].dtype == torch.float32 else as_float(fixed["image"])
    normalised = ((images - plainly.mean) / plainly.std).contiguous()
    eager = _step(lambda batch: plainly.backbone(normalised), plainly, {"fused": False}, False)
    yield EAGER, _timed(eager, lambda: fixed, device)


def _timed(step: Callable[[Batch], None], batch: Callable[[], Batch], device: torch.device) -> Run:
    def run(steps: int) -> float:
        _wait(device)
        started = perf_counter()
        for _ in range(steps):
            step(batch())
        _wait(device)
        return perf_counter() - started

    return run


def _step(
    forward: Callable[[Batch], Tensor], classifier: Classifier, changes: Mapping[str, Any], autocast: bool
) -> Callable[[Batch], None]:
    optimizer = optimization.create_optimizer({**classifier.optimizer_options, **changes}, classifier.parameters())

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        with torch.autocast(classifier.device.type, torch.bfloat16, enabled=autocast):
            logits = forward(batch)
        classifier.loss(logits.float(), batch["label"]).backward()
        optimizer.step()

    return step


def _endless(data: DefectData, device: torch.device) -> Iterator[Batch]:
    """Training batches as a trainer takes them, epoch after epoch."""
    epoch = 0
    while True:
        for batch in data.train_dataloader():
            if data.augment:
                batch["random"] = uniforms(data.seed, epoch, batch["index"], Augment.COUNT)
            yield data.on_after_batch_transfer(data.transfer_batch_to_device(batch, device, 0), 0)
        epoch += 1


class Clock(pl.Callback):
    """Seconds of an epoch with what belongs to its end, but not of its first step."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start after the first step."""
        if batch_idx == 0:
            _wait(pl_module.device)
            self.started = perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        _wait(pl_module.device)
        self.seconds = perf_counter() - self.started


def _lightning(config: DictConfig, classifier: Classifier, data: DefectData, steps: int) -> float:
    counted = min(steps, len(data.train_dataloader()) - 1)
    options = {
        **plain(config.trainer),
        "max_epochs": 1,
        "limit_train_batches": counted + 1,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
    }
    clock = {"_target_": f"{__name__}.{Clock.__name__}"}
    with tempfile.TemporaryDirectory() as folder:
        loggers = [TensorBoardLogger(folder, name="", version=""), History(Path(folder, "metrics.csv"))]
        fit = trainer.create_trainer(options, {"clock": clock}, loggers, classifier.backbone)
        fit.fit(classifier, datamodule=data)
    (found,) = (c for c in fit.callbacks if isinstance(c, Clock))  # type: ignore[attr-defined]
    return float(found.seconds) * steps / counted


def matrix_peak(device: torch.device, amp: str) -> float:
    """Operations a second of a large matrix product in the precision that the network computes in, measured."""
    side = 1024 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if amp.startswith("bf16") else torch.float32
    left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(5):
        _wait(device)
        started = perf_counter()
        for _ in range(5):
            left @ right
        _wait(device)
        times.append(perf_counter() - started)
    return 5 * 2 * side**3 / min(times)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
