"""timm's networks under the contract of `Backbone`."""

from typing import Any, cast

import timm

from alu_defects.errors import UserError, did_you_mean
from alu_defects.models.backbone import Backbone, pretrained_unavailable


def timm_backbone(
    name: str, num_classes: int, *, pretrained: bool = False, in_chans: int = 3, drop_rate: float = 0.0, **options: Any
) -> Backbone:
    """Create any of timm's networks; a transformer's `forward_features` gives tokens, not a (B, C, H, W) map.

    Args:
        name: timm's name, with or without the tag of the weights (`resnet18.a1_in1k`).
        num_classes: Width of the classifier.
        pretrained: Download timm's published weights.
        in_chans: Channels of the input.
        drop_rate: Dropout before the classifier.
        options: Whatever else this network takes, for example `img_size` for a vision transformer.
    """
    if not timm.is_model(name):
        known = timm.list_models()
        hint = did_you_mean(name.partition(".")[0], known)
        raise UserError(f"timm has no model '{name}'{hint} `timm.list_models()` lists all {len(known)}.")
    if drop_rate:  # not every network knows dropout; none needs to hear of 0
        options["drop_rate"] = drop_rate
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **options)
    except TypeError as error:
        raise UserError(f"timm's '{name}' cannot be made with these options: {str(error).rstrip('.')}.") from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise UserError(f"timm's '{name}' cannot be made: {str(error).rstrip('.')}.") from error
        # no network, a hash that differs, or weights that timm does not have
        raise pretrained_unavailable(f"timm's {name}", error) from error
    backbone = cast(Backbone, model)
    published: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]  # to mypy it is a tensor
    backbone.input_mean, backbone.input_std = tuple(published["mean"]), tuple(published["std"])
    fixed = published["input_size"] if published.get("fixed_input_size") else published.get("min_input_size")
    size: Any = options.get("img_size") or fixed or 32  # 32: the stride of nearly all of them
    backbone.min_input_size = size if isinstance(size, int) else size[-1]
    return backbone
