"""What a training step costs: by itself, fed with images, and in the whole of Lightning."""

import copy
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import chain, count, islice, product, repeat
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from rich.progress import track
from torch import Tensor
from torch.utils.benchmark import timer  # waits for the device

from alu_defects.benchmarking.measurement import Spread, Table, peak_memory, take_turns, time_call
from alu_defects.config import Size, backbone_options, image_sizes, plain, size_text
from alu_defects.data.augment import as_float
from alu_defects.data.datamodule import DefectData
from alu_defects.data.loading import Batch
from alu_defects.errors import UserError
from alu_defects.models.backbone import multiply_adds
from alu_defects.training import optimization, threads, trainer
from alu_defects.training.history import History
from alu_defects.training.module import Classifier

LOOPS = EAGER, FIXED, FED, LIGHTNING = "eager", "1 fixed", "2 fed", "3 Lightning"
TimedLoop = Callable[[int], float]  # steps → seconds
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def measure(config: DictConfig, models: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Measure the training of `models` (name → group `model`) at `config.image_sizes`."""
    threads.set_threads(config.trainer.threads)
    return [_measure_size(config, models, pixels) for pixels in image_sizes(config)]


def _measure_size(config: DictConfig, models: Mapping[str, Mapping[str, Any]], pixels: Size) -> Table:
    options = {**plain(config.data), "image_size": pixels}
    data = DefectData(**options, split=plain(config.split), augment=plain(config.augment), seed=0)
    data.prepare_data()
    data.setup("fit")
    if len(data.train_dataloader()) < 2:
        raise UserError(f"data.batch_size={data.batch_size} leaves fewer than two batches to train on; lower it")
    torch._dynamo.reset()  # networks of one class share a cache of few entries, and run eagerly when it is full
    rows: list[dict[str, Any]] = []
    loops: dict[str, dict[str, TimedLoop]] = {}
    for name, model in models.items():
        pl.seed_everything(0, verbose=False)
        parts = {key: config[key] for key in ("loss", "optimizer", "scheduler")}
        parts = plain(OmegaConf.create(parts | {"model": dict(model)}))  # whose learning rate the optimizer takes
        classifier = Classifier(
            **parts | {"model": backbone_options(model)},
            classes=data.classes,
            class_counts=data.class_counts(),
            image_size=pixels,
            compile=trainer.should_compile(config.compile, plain(config.trainer)),
        )
        network = classifier.backbone
        fit = trainer.create_trainer({**plain(config.trainer), "max_epochs": 1}, {}, [], network)
        device, precision = fit.strategy.root_device, str(fit.precision)
        loops[name], memory = _create_loops(config, classifier, data, device, precision)
        parameters = sum(p.numel() for p in network.parameters()) / 1e6
        row: dict[str, Any] = {"network": name, "precision": precision, "parameters (M)": parameters}
        rows.append(row | {"GMACs": multiply_adds(network, pixels) / 1e9, "memory (MB)": memory / 1e6})
    steps = {name: max(1, math.ceil(config.seconds / loops[name][FIXED](1))) for name in models}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in product(models, LOOPS)}
    order = list(take_turns(seconds, config.repeats))
    what = f"training at {size_text(pixels)} pixels"
    for name, kind in track(order, what, disable=not config.trainer.enable_progress_bar):
        seconds[name, kind].append(loops[name][kind](steps[name]) / steps[name])
    for row in rows:
        step = {kind: np.array(seconds[row["network"], kind]) for kind in LOOPS}
        row |= {f"{kind} (img/s)": Spread.of_rounds(data.batch_size / step[kind]) for kind in LOOPS}
        for name, slower, faster in (("1 / eager", FIXED, EAGER), ("2 / 1", FED, FIXED), ("3 / 2", LIGHTNING, FED)):
            row[name] = Spread.of_rounds(step[faster] / step[slower])
        # forward, and backward to inputs and to weights
        operations = 3 * 2 * row["GMACs"] * 1e9 * data.batch_size / float(np.median(step[FIXED]))
        row["share of the matrix peak"] = operations / matrix_peak(device, row["precision"])
    note = (
        f"img/s of training, batch {data.batch_size}. eager: the same network in float32 and NCHW with PyTorch's "
        f"default optimizer kernel, on one batch; 1: our step on one batch that is on the {device.type} already; 2: "
        "fed by the data path, augmented; 3: with Lightning, metrics and logging. Median (range) of "
        f"{config.repeats} interleaved rounds of all networks; ratios round by round."
    )
    return Table(f"training at {pixels[0]}×{pixels[1]} on {device.type}", rows, note)


def _create_loops(
    config: DictConfig, classifier: Classifier, data: DefectData, device: torch.device, precision: str
) -> tuple[dict[str, TimedLoop], float]:
    """The loops, each after two steps that do not count, and the bytes that the first needs."""
    data.move_pixels(device)
    data.setup("fit")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the one that PyTorch's timer waits for
    matrix_peak(device, precision)  # before memory is measured: it loads the libraries of the device
    batches = chain.from_iterable(load_batches(data, device, epoch) for epoch in count())
    fixed = next(batches)
    loops: dict[str, TimedLoop] = {LIGHTNING: lambda steps: _lightning(config, classifier, data, steps)}

    def add_loop(kind: str, step: Callable[[Batch], object], source: Iterator[Batch]) -> None:
        loops[kind] = lambda steps: time_call(lambda: [step(batch) for batch in islice(source, steps)])

    def create_ours() -> None:
        ours = copy.deepcopy(classifier).to(device).train()
        ours.on_fit_start()
        step = create_step(lambda batch: ours(batch["image"]), ours, precision)
        add_loop(FIXED, step, repeat(fixed))
        add_loop(FED, step, batches)
        loops[FIXED](2)  # allocates, chooses kernels, compiles; the second step finds the optimizer's state

    memory = peak_memory(create_ours, device.type)
    plainly = copy.deepcopy(classifier).to(device).train()
    plainly.backbone.to(memory_format=torch.contiguous_format)
    images = fixed["image"] if fixed["image"].dtype == torch.float32 else as_float(fixed["image"])
    normalised = ((images - plainly.mean) / plainly.std).contiguous()
    eager = create_step(lambda batch: plainly.backbone(normalised), plainly, "32-true", fused=False)
    add_loop(EAGER, eager, repeat(fixed))
    for kind in (FED, LIGHTNING, EAGER):
        loops[kind](2)
    return loops, memory


def load_batches(data: DefectData, device: torch.device, epoch: int = 0) -> Iterator[Batch]:
    """The training batches of an epoch on the device, as a trainer takes them."""
    for batch in data.train_dataloader():
        if data.augment:
            data.draw_numbers(batch, epoch)
        yield data.on_after_batch_transfer(data.transfer_batch_to_device(batch, device, 0), 0)


def create_step(
    forward: Callable[[Batch], Tensor], classifier: Classifier, precision: str, **optimizer_options: Any
) -> Callable[[Batch], object]:
    """A training step without Lightning, with options of the optimizer that replace those of the classifier."""
    options = {**classifier.optimizer_options, **optimizer_options}
    optimizer = optimization.create_optimizer(options, classifier.backbone)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        with torch.autocast(classifier.device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
            logits = forward(batch)
        classifier.loss(logits.float(), batch["label"]).backward()
        optimizer.step()

    return step


def _lightning(config: DictConfig, classifier: Classifier, data: DefectData, steps: int) -> float:
    counted = min(steps, len(data.train_dataloader()) - 1)
    options = plain(config.trainer) | {"max_epochs": 1, "limit_train_batches": counted + 1, "limit_val_batches": 0}
    options |= {"enable_progress_bar": False, "enable_checkpointing": False}
    times: list[float] = []  # after the first step, and at the end with what belongs to the end of an epoch
    with tempfile.TemporaryDirectory() as folder:
        loggers = [TensorBoardLogger(folder, name="", version=""), History(Path(folder, "metrics.csv"))]
        fit = trainer.create_trainer(options, {}, loggers, classifier.backbone)
        clock = pl.callbacks.LambdaCallback(
            on_train_batch_end=lambda *hook: times.append(timer()) if hook[-1] == 0 else None,  # the batch's number
            on_train_end=lambda *hook: times.append(timer()),
        )
        fit.callbacks.append(clock)  # type: ignore[attr-defined]
        fit.fit(classifier, datamodule=data)
    return (times[1] - times[0]) * steps / counted


@cache
def matrix_peak(device: torch.device, precision: str) -> float:
    """Operations a second of a large matrix product in the precision that the network computes in, measured."""
    side = 1024 if device.type == "cpu" else 8192
    dtype = AUTOCAST.get(precision, torch.float32)
    left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = min(time_call(lambda: [left @ right for _ in range(5)]) for _ in range(5))
    return 5 * 2 * side**3 / seconds
