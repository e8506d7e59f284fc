"""In which precision a network computes fastest on a device."""

from statistics import mean

import torch
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from torch import nn

from alu_defects.errors import UserError

# Products that an output value of a layer sums up, as the mean over the layers. On two cores with native bf16, training
# with bf16-mixed was 1.35 times as fast as fp32 for Inception V4 (1,138 products), 1.84 for Xception (359) and 0.85 for
# ShuffleNet-V2 (109), whose layers move numbers more than they multiply.
PAYS_FROM = 300


# what the network computes in; it could not be trained in Lightning's other ones, such as bf16-true: its statistics and
# metrics are float32
CHOICES = ("auto", "32-true", "bf16-mixed", "16-mixed")


def check(precision: str | int) -> None:
    """Refuse a precision that is not supported.

    Raises:
        UserError: it is none of `CHOICES`, nor 32, bf16 or 16, which is short for one of them.
    """
    if str(precision) not in (*CHOICES, "32", "bf16", "16"):
        raise UserError(f"trainer.precision={precision} is not supported. There are: {', '.join(CHOICES)}")


def allow_tf32(device: torch.device) -> None:
    """Let a GPU multiply matrices in TF32 where they are not bf16 already; to be called in each process.

    It moves augmented images of 400 pixels by 0.1 pixel at most.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def choose(network: nn.Module, accelerator: str) -> str:
    """The precision of `trainer.precision=auto`: bf16-mixed where there are instructions for it, else 32-true.

    On a processor the network must be heavy enough to gain.

    Args:
        network: that is to be trained or evaluated.
        accelerator: of the trainer.
    """
    kind = device_type(accelerator)
    gains = kind == "cuda" or products(network) >= PAYS_FROM
    return "bf16-mixed" if native_bf16(kind) and gains else "32-true"


def device_type(accelerator: str) -> str:
    """What a trainer takes for its `accelerator`: cuda, cpu, or the word itself for what we know nothing of."""
    if accelerator in ("auto", "gpu", "cuda") and CUDAAccelerator.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and MPSAccelerator.is_available():
        return "mps"
    return "cpu" if accelerator == "auto" else accelerator


def native_bf16(device_type: str) -> bool:
    """Whether a kind of device has instructions for bf16; emulated, it takes twice the time of fp32 on a processor."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device_type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def computes_on(accelerator: str, precision: str | int) -> str:
    """The kind of device, with whether it has bf16 where `precision` is auto: what else but the network decides it."""
    kind = device_type(accelerator)
    return f"{kind} with bf16" if precision == "auto" and native_bf16(kind) else kind


def products(network: nn.Module) -> float:
    """How many products an output value sums up, as the mean over the convolutions and linear layers."""
    layers = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return mean(weight[0].numel() for weight in layers) if layers else 0.0
