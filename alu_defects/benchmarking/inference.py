"""How fast networks classify: each as PyTorch runs it by default, and in the ways that are faster."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from alu_defects.benchmarking.measurement import Spread, Table, Task, time_call, time_tasks
from alu_defects.config import Size, backbone_options, image_sizes, plain, size_text, whole_numbers
from alu_defects.errors import UserError
from alu_defects.models import registry
from alu_defects.models.backbone import Backbone, multiply_adds
from alu_defects.tianchi_classes import CLASS_NAMES
from alu_defects.training import threads, trainer

EAGER = "eager"  # float32, NCHW: what all others are compared with


def measure(config: DictConfig, models: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Measure the size of `models` (name → group `model`), the latency of one image and the throughput of batches."""
    batch_sizes = whole_numbers(config, "batch_sizes")
    threads.set_threads(config.trainer.threads)
    networks: dict[tuple[str, Size], Backbone] = {}
    sizes: list[dict[str, Any]] = []
    latency: list[dict[str, Any]] = []
    throughput: list[dict[str, Any]] = []
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
    for (name, pixels), batch in track(cells, "inference", disable=not config.trainer.enable_progress_bar):
        with _hints(name, pixels, batch, device), torch.inference_mode():
            torch._dynamo.reset()  # networks of one class share a cache of few entries, and run eagerly when it is full
            images = torch.rand(batch, 3, *pixels, device=device)
            variants = create_variants(networks[name, pixels], images, bool(config.compile))
            first = {variant: time_call(task) for variant, task in variants.items()}
            rounds = time_tasks(variants, repeats=config.repeats, seconds=config.seconds, each_call=batch == 1)
        average = np.median if batch == 1 else np.mean
        typical = {name: np.array([average(calls) for calls in turns]) for name, turns in rounds.items()}
        for variant, seconds in typical.items():
            ratio = {"× eager": Spread.of_rounds(typical[EAGER] / seconds), "first call (s)": first[variant]}
            row: dict[str, Any] = {"network": name, "pixels": size_text(pixels)}
            if batch == 1:
                p95 = float(1e3 * np.percentile(np.concatenate(rounds[variant]), 95))
                row |= {"variant": variant, "p50 (ms)": Spread.of_rounds(1e3 * seconds), "p95 (ms)": p95}
            else:
                row |= {"batch": batch, "variant": variant, "img/s": Spread.of_rounds(batch / seconds)}
            (latency if batch == 1 else throughput).append(row | ratio)
    note = (
        "eager: float32, NCHW; channels_last: float32, NHWC; bf16: channels_last with autocast; compiled: "
        "channels_last with torch.compile. Images are on the device already. Median (range) of "
        f"{config.repeats} interleaved rounds; × eager: how many times as fast, round by round."
    )
    tables = [
        Table("networks", sizes, f"{len(CLASS_NAMES)} classes; GMACs: of one image."),
        Table(f"latency of one image on {device.type}", latency, f"p95: of the calls of all rounds. {note}", names=2),
        Table(f"throughput on {device.type}", throughput, note, names=2),
    ]
    return [table for table in tables if table.rows]


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
