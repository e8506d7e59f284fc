"""The interface of all backbones."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from alu_defects.config import Size
from alu_defects.errors import UserError


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

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns that find the layer of a parameter by its name; optional, for `layer_depths`."""
        raise NotImplementedError

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


def layer_depths(backbone: nn.Module) -> dict[str, int]:
    """How many layers each parameter is below the classifier, which has 0; by timm's `group_matcher`.

    Raises:
        UserError: the network has none, or all in one layer.
    """
    matcher: Any = getattr(backbone, "group_matcher", None)
    layers = group_parameters(backbone, matcher(coarse=False), reverse=True) if matcher else {}
    last = max(layers.values(), default=0)
    if last == 0:
        raise UserError(
            f"{type(backbone).__name__} does not say what its layers are (group_matcher of alu_defects.models.backbone)"
            "; give optimizer.layer_decay=1 and, with callbacks=[default,finetuning], "
            "callbacks.finetuning.unfreeze_epochs=0"
        )
    own = {id(weight) for head in classifiers(backbone) for weight in head.parameters()}
    weights = backbone.named_parameters()
    return {name: 0 if id(weight) in own else last - layers.get(name, last) for name, weight in weights}


def multiply_adds(backbone: nn.Module, image_size: Size) -> int:
    """Multiplications with an addition, of convolutions and matrix products, for one image."""
    training, parameter = backbone.training, next(backbone.parameters())
    image = torch.zeros(1, 3, *image_size, dtype=parameter.dtype, device=parameter.device)
    backbone.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(image)
    backbone.train(training)
    return int(counter.get_total_flops()) // 2  # it counts both
