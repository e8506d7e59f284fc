"""In which precision a network computes fastest on a device."""

from statistics import mean

import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from torch import nn

# Products that an output value of a layer sums up, as the mean over the layers. On two cores with native bf16, training
# with bf16-mixed was 1.35 times as fast as fp32 for Inception V4 (1,138 products), 1.84 for Xception (359) and 0.85 for
# ShuffleNet-V2 (109), whose layers move numbers more than they multiply.
PAYS_FROM = 300


def choose(network: nn.Module, accelerator: str) -> str:
    """The precision of `trainer.precision=auto`: bf16-mixed on a GPU that has bf16, else by `on_cpu`.

    Args:
        network: that is to be trained or evaluated.
        accelerator: of the trainer.
    """
    if accelerator != "cpu" and CUDAAccelerator.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator in ("auto", "cpu"):
        return on_cpu(network)
    return "32-true"


def on_cpu(network: nn.Module) -> str:
    """bf16-mixed where the processor has instructions for it and the network is heavy enough to gain, else 32-true."""
    return "bf16-mixed" if native_bf16() and products(network) >= PAYS_FROM else "32-true"


def native_bf16() -> bool:
    """Whether the processor has instructions for it; emulated, it takes twice the time of fp32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def products(network: nn.Module) -> float:
    """How many products an output value sums up, as the mean over the convolutions and linear layers."""
    layers = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return mean(weight[0].numel() for weight in layers) if layers else 0.0
