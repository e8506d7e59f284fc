"""How fast networks classify: each as PyTorch runs it by default, and in the ways that are faster."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from alu_defects.benchmarking.measurement import Spread, Table, Task, time_call, time_tasks
from alu_defects.config import Size, backbone_options, image_sizes, plain, size_text, whole_numbers
from alu_defects.deployment import torch_network
from alu_defects.deployment.graph import DecidingNetwork
from alu_defects.deployment.predictor import exported_files, load_exported
from alu_defects.errors import UserError
from alu_defects.models import registry
from alu_defects.models.backbone import Backbone, multiply_adds
from alu_defects.runs.run import Run
from alu_defects.tianchi_classes import CLASS_NAMES
from alu_defects.training import threads, trainer

Row = dict[str, Any]
EAGER = "eager"  # float32, NCHW: what all others are compared with


def measure(config: DictConfig, models: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Measure the size of `models` (name → group `model`), the latency of one image and the throughput of batches."""
    batch_sizes = whole_numbers(config, "batch_sizes")
    threads.set_threads(config.trainer.threads)
    networks: dict[tuple[str, Size], Backbone] = {}
    sizes: list[Row] = []
    for name, pixels in product(models, image_sizes(config)):
        options = backbone_options(models[name])
        network = registry.create_backbone(**options, num_classes=len(CLASS_NAMES), image_size=pixels).eval()
        networks[name, pixels] = network
        size = {"network": name, "pixels": size_text(pixels)}
        parameters = sum(p.numel() for p in network.parameters()) / 1e6
        sizes.append({**size, "parameters (M)": parameters, "GMACs": multiply_adds(network, pixels) / 1e9})
    device = trainer.create_trainer(plain(config.trainer), {}, [], network).strategy.root_device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the one that PyTorch's timer waits for
    cells = list(product(networks, batch_sizes))
    rows: list[Row] = []
    for (name, pixels), batch in track(cells, "inference", disable=not config.trainer.enable_progress_bar):
        with _hints(name, pixels, batch, device), torch.inference_mode():
            torch._dynamo.reset()  # networks of one class share a cache of few entries, and run eagerly when it is full
            images = torch.rand(batch, 3, *pixels, device=device)
            variants = create_variants(networks[name, pixels], images, bool(config.compile))
            rows += time_variants(name, pixels, batch, variants, repeats=config.repeats, seconds=config.seconds)
    note = (
        "eager: float32, NCHW; channels_last: float32, NHWC; bf16: channels_last with autocast; compiled: "
        f"channels_last with torch.compile. Images are on the device already. {_rounds_note(config)}"
    )
    sizes_table = Table("networks", sizes, f"{len(CLASS_NAMES)} classes; GMACs: of one image.")
    return [sizes_table, *_tables(rows, device.type, note)]


def measure_run(config: DictConfig) -> list[Table]:
    """Measure a trained run and the files that were exported of it, from decoded pixels to probabilities."""
    batch_sizes = whole_numbers(config, "batch_sizes")
    threads.set_threads(config.trainer.threads)
    run = Run.existing(config.run)
    bundle, network, _ = torch_network.read(run.folder)
    files = exported_files(run.exports)
    cells = list(product(image_sizes(config, bundle.image_size), batch_sizes))
    rows: list[Row] = []
    for pixels, batch in track(cells, "inference", disable=not config.trainer.enable_progress_bar):
        with _hints(bundle.about["model"], pixels, batch, torch.device("cpu")):
            variants = deciding_variants(network, files, pixels, batch)
            found = time_variants(
                bundle.about["model"], pixels, batch, variants, repeats=config.repeats, seconds=config.seconds
            )
            rows += found
    note = f"eager: float32, NCHW, in PyTorch; the others: files in {run.folder.name}/export. {_rounds_note(config)}"
    return _tables(rows, "cpu", note)


def deciding_variants(network: DecidingNetwork, files: Sequence[Path], pixels: Size, batch: int) -> dict[str, Task]:
    """A network as PyTorch runs it, and exported files, on decoded images (B, H, W, 3); by the name of the file."""
    images = np.random.default_rng(0).integers(0, 256, (batch, *pixels, 3), dtype=np.uint8)
    networks = {EAGER: torch_network.computing(network, torch.device("cpu"))}
    networks |= {file.name: load_exported(file, pixels)[1] for file in files}
    return {name: partial(compute, images, False) for name, compute in networks.items()}


def time_variants(
    name: str, pixels: Size, batch: int, variants: Mapping[str, Task], *, repeats: int, seconds: float
) -> list[Row]:
    """A row for each variant: of one image the latency, of more the throughput, and how many times as fast as eager."""
    first = {variant: time_call(task) for variant, task in variants.items()}
    rounds = time_tasks(variants, repeats=repeats, seconds=seconds, each_call=batch == 1)
    average = np.median if batch == 1 else np.mean
    typical = {variant: np.array([average(calls) for calls in turns]) for variant, turns in rounds.items()}
    rows = []
    for variant, times in typical.items():
        ratio = {"× eager": Spread.of_rounds(typical[EAGER] / times), "first call (s)": first[variant]}
        row: Row = {"network": name, "pixels": size_text(pixels)}
        if batch == 1:
            p95 = float(1e3 * np.percentile(np.concatenate(rounds[variant]), 95))
            row |= {"variant": variant, "p50 (ms)": Spread.of_rounds(1e3 * times), "p95 (ms)": p95}
        else:
            row |= {"batch": batch, "variant": variant, "img/s": Spread.of_rounds(batch / times)}
        rows.append(row | ratio)
    return rows


def _tables(rows: Sequence[Row], device: str, note: str) -> list[Table]:
    latency, throughput = ([row for row in rows if ("batch" in row) is several] for several in (False, True))
    tables = [
        Table(f"latency of one image on {device}", latency, f"p95: of the calls of all rounds. {note}", names=2),
        Table(f"throughput on {device}", throughput, note, names=2),
    ]
    return [table for table in tables if table.rows]


def _rounds_note(config: DictConfig) -> str:
    return f"Median (range) of {config.repeats} interleaved rounds; × eager: how many times as fast, round by round."


def create_variants(network: Backbone, images: Tensor, compiled: bool) -> dict[str, Task]:
    """The ways to classify the images (B, 3, H, W), which lie on the device, by their name."""
    device = images.device
    nchw = copy.deepcopy(network).to(device)
    nhwc = copy.deepcopy(nchw).to(memory_format=torch.channels_last)
    nhwc_images = images.contiguous(memory_format=torch.channels_last)

    def bf16(module: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return module(nhwc_images)

    variants: dict[str, Task] = {EAGER: partial(nchw, images), "channels_last": partial(nhwc, nhwc_images)}
    variants["bf16"] = partial(bf16, nhwc)
    if compiled:
        fast = torch.compile(nhwc, dynamic=False)
        variants["compiled"] = partial(fast, nhwc_images)
        if trainer.native_bf16(device.type):  # emulated, it takes long to compile for nothing
            variants["compiled bf16"] = partial(bf16, fast)
    return variants


@contextmanager
def _hints(name: str, pixels: Size, batch: int, device: torch.device) -> Iterator[None]:
    """Say what to do about a memory that is too small, and about a compiler that is not there."""
    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"torch.compile cannot compile {name} here: {reason}; leave compile=true out") from error
    except (RuntimeError, MemoryError) as error:
        # a CPU's allocator raises an ordinary RuntimeError: "... can't allocate memory: you tried to allocate ..."
        if "tried to allocate" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        raise UserError(
            f"batch_sizes={batch}: so many images of {pixels[0]}×{pixels[1]} in {name} do not fit into the memory "
            f"of the {device.type}; leave {batch} out"
        ) from error
