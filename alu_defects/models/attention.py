"""Channel and spatial squeeze & excitation (eqs. 1-6 of the paper, after Roy et al. 2018).

Every linear map has a bias: fourteen scSE blocks in Inception V4 then add 1,903,438 parameters at r = 16 and 15,041,038
at r = 2, without biases 1,889,280 and 15,021,056.

The last map of each gate starts at zero, so that a gate starts at sigma(0) = 0.5 everywhere, and the sum of two (eq. 6)
at exactly 1: a network with published weights and new scSE blocks computes what it computed before. A single gate, and
the maximum, start by halving the feature map. Batch norm keeps that from piling up in train mode; in eval mode, with
published running statistics, it piles up until a few dozen training steps have renewed them.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alu_defects.errors import UserError, did_you_mean

KINDS = ("none", "cse", "sse", "scse")
FUSIONS = ("sum", "max")

# where a backbone takes attention: stage name -> {path of the block: its output channels}
Points = Mapping[str, Mapping[str, int]]


class ChannelSE(nn.Module):
    """Spatial squeeze, channel excitation: one gate for each channel (eqs. 1-3)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.reduce = nn.Linear(channels, hidden)  # W2
        self.expand = nn.Linear(hidden, channels)  # W1
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def gate(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to sigma(W1 delta(W2 z)) of (B, C, 1, 1), z the mean over the frame (eqs. 1, 2)."""
        z = _nhwc(x).mean((1, 2))  # its gradient then has the memory format of the others that reach x
        gate: Tensor = self.expand(F.relu(self.reduce(z))).sigmoid()
        return gate[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel by its gate (eq. 3)."""
        return x * self.gate(x)


class SpatialSE(nn.Module):
    """Channel squeeze, spatial excitation: one gate for each position (eqs. 4, 5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, 1, kernel_size=1)  # W_sq
        nn.init.zeros_(self.squeeze.weight)
        nn.init.zeros_(self.squeeze.bias)  # type: ignore[arg-type]  # nn.Conv2d's bias is optional

    def gate(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to sigma(W_sq * x) of (B, 1, H, W) (eq. 4)."""
        # as a matrix product: a convolution to one channel is slow
        squeezed = F.linear(_nhwc(x), self.squeeze.weight.flatten(1), self.squeeze.bias)
        return squeezed.sigmoid().permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every position by its gate (eq. 5)."""
        return x * self.gate(x)


class SCSE(nn.Module):
    """Both, fused by their sum (eq. 6) or, as in Roy et al.'s own code, by the larger of the two."""

    def __init__(self, channels: int, reduction: int = 16, fusion: str = "sum") -> None:
        super().__init__()
        self.cse = ChannelSE(channels, reduction)
        self.sse = SpatialSE(channels)
        self.fusion = fusion

    def forward(self, x: Tensor) -> Tensor:
        """Re-weight (B, C, H, W) by both gates."""
        channel, place = self.cse.gate(x), self.sse.gate(x)
        if self.fusion == "max":
            return torch.maximum(x * channel, x * place)
        # in NHWC: otherwise the sum has another memory format than x, and the product is 2-7 times slower
        return (_nhwc(x) * (_nhwc(channel) + _nhwc(place))).permute(0, 3, 1, 2)


def _nhwc(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H, W, C), without copying."""
    return x.permute(0, 2, 3, 1)


def build(kind: str, channels: int, *, reduction: int = 16, fusion: str = "sum") -> nn.Module | None:
    """Return one attention module, or None for "none"."""
    if kind not in KINDS:
        raise UserError(f"Unknown attention '{kind}'{did_you_mean(kind, KINDS)} It is one of {', '.join(KINDS)}.")
    if fusion not in FUSIONS:
        raise UserError(f"Unknown attention_fusion '{fusion}'{did_you_mean(fusion, FUSIONS)} It is sum or max.")
    if reduction < 1:
        raise UserError(f"attention_reduction={reduction}: the squeeze ratio is a whole number from 1 (the paper: 16).")
    if kind == "cse":
        return ChannelSE(channels, reduction)
    if kind == "sse":
        return SpatialSE(channels)
    return SCSE(channels, reduction, fusion) if kind == "scse" else None


# at module level, where pickle and deepcopy can find it
def _apply(block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return cast(Tensor, block.attention(output))  # type: ignore[operator]  # attach() put a module there


def attach(block: nn.Module, attention: nn.Module) -> None:
    """Apply `attention` to the output of `block`.

    A hook and not a wrapper: the keys of all other parameters stay what they are in the published files.
    """
    block.attention = attention
    block.register_forward_hook(_apply)


def insert_attention(
    model: nn.Module, points: Points, kind: str, *, stages: str | Iterable[str] | None = None, **options: Any
) -> None:
    """Attach attention after every block of the chosen stages (None: all of them)."""
    stages = [stages] if isinstance(stages, str) else stages
    chosen = list(points) if stages is None else [str(stage) for stage in stages]
    if unknown := [stage for stage in chosen if stage not in points]:
        raise UserError(f"Unknown stage '{unknown[0]}' in attention_stages; this backbone has {', '.join(points)}.")
    for stage in points:
        for path, channels in points[stage].items() if stage in chosen else ():
            if (attention := build(kind, channels, **options)) is not None:
                attach(model.get_submodule(path), attention)
