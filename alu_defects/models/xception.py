"""Xception."""

import functools

from alu_defects.models.backbone import Backbone
from alu_defects.models.registry import register
from alu_defects.models.timm import timm_backbone, timm_weights


@register("xception", published=functools.partial(timm_weights, "legacy_xception"))
def xception(num_classes: int, *, pretrained: bool = False, in_chans: int = 3, drop_rate: float = 0.0) -> Backbone:
    """Xception (timm's `legacy_xception`, the network of the paper; `xception41` is another one).

    Attention stages: entry (after block1 to block3), middle (block4 to block11), exit (block12), each time on the sum
    of block and skip connection.
    """
    model = timm_backbone("legacy_xception", num_classes, pretrained=pretrained, in_chans=in_chans, drop_rate=drop_rate)
    model.attention_points = {
        "entry": {"block1": 128, "block2": 256, "block3": 728},
        "middle": {f"block{index}": 728 for index in range(4, 12)},
        "exit": {"block12": 1024},
    }
    model.min_input_size = 32, 32  # 7 pixels work, but below the stride of 32 the last map is mostly padding
    return model
