"""Inception V4 and its variants with attention."""

import functools

from torch import nn

from alu_defects.models.backbone import Backbone
from alu_defects.models.registry import register
from alu_defects.models.timm import timm_backbone, timm_weights

_weights = functools.partial(timm_weights, "inception_v4")


@register("inceptionv4", published=_weights)
@register("inceptionv4_scse", attention="scse", published=_weights)
@register("inceptionv4_cse", attention="cse", published=_weights)
@register("inceptionv4_sse", attention="sse", published=_weights)
def inceptionv4(num_classes: int, *, pretrained: bool = False, in_chans: int = 3, drop_rate: float = 0.0) -> Backbone:
    """Inception V4 (timm's `inception_v4`); attention stages a, b, c: after each Inception-A, -B, -C block."""
    model = timm_backbone("inception_v4", num_classes, pretrained=pretrained, in_chans=in_chans, drop_rate=drop_rate)
    if not pretrained:
        _open_rectifiers(model)
    model.attention_points = {
        "a": {f"features.{index}": 384 for index in range(6, 10)},
        "b": {f"features.{index}": 1024 for index in range(11, 18)},
        "c": {f"features.{index}": 1536 for index in range(19, 22)},
    }
    model.min_input_size = 75, 75  # at 74 the last reduction has a map of 2 x 2 for its 3 x 3 window
    return model


def _open_rectifiers(model: nn.Module) -> None:
    """Start the biases of batch norm at 1 instead of 0, so that an untrained ReLU passes five of six inputs.

    In a network of this depth without skip connections batch norm makes gradients grow from layer to layer (Yang et al.
    2019, A Mean Field Theory of Batch Normalization). On a batch of 16 at 112 px their norm falls from 8,000 to 67.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.bias)
