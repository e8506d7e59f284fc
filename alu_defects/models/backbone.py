"""The interface of all backbones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from alu_defects.config import Size


class Backbone(nn.Module):
    """The interface, with timm's names, of what `registry.create_backbone` returns; for readers and type checkers."""

    num_classes: int
    num_features: int  # channels of the last feature map, width of the pre-logits
    feature_info: Sequence[dict[str, Any]]  # num_chs, reduction, module; the last entry is the last feature map
    input_mean: tuple[float, ...]  # per channel, of images in 0..1; those of the published weights,
    input_std: tuple[float, ...]  # the same with and without them
    min_input_size: Size  # smaller images fail or are mostly padding; or the only size

    loaded: str  # what was loaded of the weights that it starts from, and what is new; "" if it starts from none

    # Optional: where attention may be inserted (see attention.Points).
    attention_points: dict[str, dict[str, int]]

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (B, in_chans, H, W) to the last feature map (B, num_features, h, w)."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the feature map to logits (B, num_classes), or to the pooled features (B, num_features)."""
        raise NotImplementedError

    def get_classifier(self) -> nn.Module | tuple[nn.Module, ...]:
        """Return the last linear layer, or both of a distilled transformer."""
        raise NotImplementedError

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new, untrained classifier in place; 0 classes: none."""
        raise NotImplementedError


def classifiers(backbone: nn.Module) -> list[nn.Module]:
    """The modules that `get_classifier` of a backbone returns, one or several."""
    found: Any = backbone.get_classifier()  # type: ignore[operator]  # a method of every backbone
    return list(found) if isinstance(found, tuple) else [found]


def multiply_adds(backbone: nn.Module, image_size: Size) -> int:
    """Multiplications with an addition, of convolutions and matrix products, for one image."""
    training, parameter = backbone.training, next(backbone.parameters())
    image = torch.zeros(1, 3, *image_size, dtype=parameter.dtype, device=parameter.device)
    backbone.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(image)
    backbone.train(training)
    return int(counter.get_total_flops()) // 2  # it counts both
