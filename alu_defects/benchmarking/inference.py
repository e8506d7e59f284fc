"""How fast trained networks classify: each as PyTorch runs it by default, and in the ways that are faster."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.utils.flop_counter import FlopCounterMode

from alu_defects.benchmarking.results import Table
from alu_defects.benchmarking.timing import Seconds, Spread, Task, first_call, interleaved, ratio
from alu_defects.config import backbone_options, whole_numbers
from alu_defects.errors import UserError
from alu_defects.models import registry
from alu_defects.models.backbone import Backbone
from alu_defects.tianchi_classes import CLASS_NAMES
from alu_defects.training import threads, trainer

EAGER = "eager"  # float32, NCHW: what all others are compared with
_NOTE = (
    "eager: float32, NCHW; channels_last: float32, NHWC; bf16: channels_last with autocast; "
    "compiled: channels_last with torch.compile. Images are on the device already. "
    "Median (range) of {repeats} interleaved rounds; {more}"
)


def measure(config: DictConfig, models: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Measure the size of each network, the latency of one image and the throughput of batches.

    Args:
        config: conf/benchmark.yaml, composed.
        models: what a network is called in the tables → its group `model`.

    Raises:
        UserError: an unknown network, an image too small for one, a batch too large for the memory, or a GPU or a
            compiler that is not there.
    """
    batch_sizes, image_sizes = whole_numbers(config, "batch_sizes"), whole_numbers(config, "image_sizes")
    threads.set_threads(config.trainer.threads)
    device = _device(config.trainer.accelerator)
    networks = {
        (name, pixels): _network(name, options, pixels) for name, options in models.items() for pixels in image_sizes
    }
    sizes = [
        {
            "network": name,
            "pixels": pixels,
            "parameters (M)": sum(p.numel() for p in network.parameters()) / 1e6,
            "GMACs": gmacs(network, pixels),
        }
        for (name, pixels), network in networks.items()
    ]
    latency: list[dict[str, Any]] = []
    throughput: list[dict[str, Any]] = []
    cells = list(product(networks, batch_sizes))
    for (name, pixels), batch in track(cells, "inference", disable=not config.trainer.enable_progress_bar):
        images = torch.rand(batch, 3, pixels, pixels)
        with _hints(name, pixels, batch, device), torch.inference_mode():
            first, seconds = _time(networks[name, pixels], images, device, config)
        if batch == 1:
            latency += ({"network": name, "pixels": pixels, **row} for row in _latency(first, seconds))
        else:
            row = {"network": name, "pixels": pixels, "batch": batch}
            throughput += (row | more for more in _throughput(first, seconds, batch))
    note = _NOTE.format(repeats=config.repeats, more="× eager: how many times faster, taken round by round.")
    calls = "p95 of the calls of all rounds. " + note
    tables = (
        Table("networks", pd.DataFrame(sizes), f"{len(CLASS_NAMES)} classes; GMACs: of one image."),
        Table(f"latency of one image on {device.type}", pd.DataFrame(latency), calls),
        Table(f"throughput on {device.type}", pd.DataFrame(throughput), note),
    )
    return [table for table in tables if len(table.frame)]


def gmacs(network: nn.Module, pixels: int) -> float:
    """Multiplications with addition, in 10⁹, of one image through convolutions and linear layers."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:  # under inference_mode it misses linear layers
        network(torch.zeros(1, 3, pixels, pixels))
    return float(counter.get_total_flops()) / 2 / 1e9


def _device(accelerator: str) -> torch.device:
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    if accelerator in ("gpu", "cuda") and not on_gpu:
        raise UserError(
            f"trainer.accelerator={accelerator}, but there is no GPU that PyTorch can use; give trainer=cpu"
        )
    return torch.device("cuda" if on_gpu else "cpu")


def _network(name: str, options: Mapping[str, Any], pixels: int) -> Backbone:
    network = registry.create_backbone(**backbone_options(options), num_classes=len(CLASS_NAMES), image_size=pixels)
    if pixels < network.min_input_size:
        raise UserError(f"image_sizes={pixels} is too small for {name}; give {network.min_input_size} or more")
    return network.eval()


def _time(
    network: Backbone, images: Tensor, device: torch.device, config: DictConfig
) -> tuple[dict[str, float], dict[str, Seconds]]:
    """Seconds of the first call and of those that count, by variant."""
    torch._dynamo.reset()  # networks of one class share a cache of few entries, and run eagerly when it is full
    tasks = _variants(network, images.to(device), bool(config.compile))
    wait = None if device.type == "cpu" else lambda: torch.accelerator.synchronize(device)
    first = {name: first_call(task, wait) for name, task in tasks.items()}
    return first, interleaved(
        tasks, repeats=config.repeats, seconds=config.seconds, each_call=len(images) == 1, synchronize=wait
    )


def _variants(network: Backbone, images: Tensor, compiled: bool) -> dict[str, Task]:
    device = images.device
    nchw = copy.deepcopy(network).to(device)
    nhwc = copy.deepcopy(nchw).to(memory_format=torch.channels_last)
    nhwc_images = images.contiguous(memory_format=torch.channels_last)

    def fp32(module: Callable[[Tensor], Tensor]) -> Tensor:
        return module(nhwc_images)

    def bf16(module: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return module(nhwc_images)

    variants: dict[str, Task] = {
        EAGER: lambda: nchw(images),
        "channels_last": partial(fp32, nhwc),
        "bf16": partial(bf16, nhwc),
    }
    if compiled:
        fast = torch.compile(nhwc, dynamic=False)
        variants["compiled"] = partial(fp32, fast)
        if _computes_in_bf16(device):
            variants["compiled bf16"] = partial(bf16, fast)
    return variants


def _computes_in_bf16(device: torch.device) -> bool:
    """Whether there are instructions for it; where there are none, compiling it takes long for nothing."""
    return trainer.native_bf16(device.type)


def _latency(first: Mapping[str, float], seconds: Mapping[str, Seconds]) -> Iterator[dict[str, Any]]:
    medians = {variant: np.median(calls, axis=1) for variant, calls in seconds.items()}
    for variant, calls in seconds.items():
        yield {
            "variant": variant,
            "p50 (ms)": Spread.of(1e3 * medians[variant]),
            "p95 (ms)": float(1e3 * np.percentile(calls, 95)),
            "× eager": ratio(medians[EAGER], medians[variant]),
            "first call (s)": first[variant],
        }


def _throughput(first: Mapping[str, float], seconds: Mapping[str, Seconds], batch: int) -> Iterator[dict[str, Any]]:
    for variant, calls in seconds.items():
        yield {
            "variant": variant,
            "img/s": Spread.of(batch / calls),
            "× eager": ratio(seconds[EAGER], calls),
            "first call (s)": first[variant],
        }


@contextmanager
def _hints(name: str, pixels: int, batch: int, device: torch.device) -> Iterator[None]:
    """Say what the user can do about a memory that is too small, and about a compiler that is not there."""
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
            f"batch_sizes={batch}: so many images of {pixels}×{pixels} in {name} do not fit into the memory "
            f"of the {device.type}; leave {batch} out"
        ) from error
