"""timm's networks as backbones."""

from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError

from alu_defects.config import Size, size_text
from alu_defects.errors import UserError, did_you_mean
from alu_defects.models.backbone import Backbone
from alu_defects.models.pretrained import Published, fetch

_STRIDE = 32  # of nearly all of them


def timm_weights(name: str) -> Published:
    """What is published for one of timm's networks, by its name with or without the tag."""
    _check_name(name)
    try:
        found = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that is not there
        raise UserError(f"timm's '{name}' cannot be made: {str(error).rstrip('.')}.") from error
    if found is None:
        return Published(name)
    where = {"hub_id": found.hf_hub_id} if found.hf_hub_id else {"url": found.url or ""}
    return Published(found.architecture or name, found.license or "", classes=found.num_classes, **where)


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        known = timm.list_models()
        hint = did_you_mean(name.partition(".")[0], known)
        raise UserError(f"timm has no model '{name}'{hint} `timm.list_models()` lists all {len(known)}.")


def timm_backbone(
    name: str,
    num_classes: int,
    *,
    pretrained: bool = False,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    image_size: Size | None = None,
    **options: Any,
) -> Backbone:
    """Create any of timm's networks; a transformer's `forward_features` gives tokens, not a (B, C, H, W) map.

    `name` is with or without the tag of the weights (`resnet18.a1_in1k`); `image_size` None is that of the published
    weights, where the network is for one size; `options` are whatever else this network takes.

    Raises:
        UserError: A name or an option that timm does not know, a size that does not fit, or no published weights.
    """
    _check_name(name)
    if drop_rate:  # not every network has dropout
        options["drop_rate"] = drop_rate
    overlay = _overlay(name) if pretrained else {}
    try:
        if image_size is not None:
            options = _fit(name, image_size, options)
        source: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": overlay} if pretrained else {}
        model = timm.create_model(name, num_classes=num_classes, in_chans=in_chans, **source, **options)
    except TypeError as error:
        raise UserError(f"timm's '{name}' cannot be made with these options: {str(error).rstrip('.')}.") from error
    except (OSError, RuntimeError, SafetensorError, UnpicklingError) as error:
        if not pretrained:
            raise UserError(f"timm's '{name}' cannot be made: {str(error).rstrip('.')}.") from error
        if image_size and image_size == options.get("img_size") and "size mismatch" in str(error):
            # timm resizes them for most
            raise UserError(
                f"The published weights of timm's {name} cannot be resized to data.image_size={size_text(image_size)}; "
                f"give data.image_size={size_text(_published_size(name))} or pretrained=false."
            ) from error
        reason = f"{str(error).splitlines()[0].rstrip('.')}; remove it, and it is downloaded again"
        raise UserError(f"{overlay['file']} cannot be loaded as the published weights of {name}: {reason}") from error
    backbone = cast(Backbone, model)
    published: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]  # to mypy it is a tensor
    backbone.input_mean, backbone.input_std = tuple(published["mean"]), tuple(published["std"])
    only = (image_size or published["input_size"]) if published.get("fixed_input_size") else None
    size: Any = options.get("img_size") or only or published.get("min_input_size") or _STRIDE
    backbone.min_input_size = (size, size) if isinstance(size, int) else tuple(size[-2:])  # without the channels
    return backbone


def _overlay(name: str) -> dict[str, Any]:
    """What makes timm load the file that is here: left alone it asks the network for the newest one each time."""
    published = timm_weights(name)
    overlay: dict[str, Any] = {"file": str(fetch(published)[0])}
    return overlay | ({"custom_load": False} if published.hub_id else {})  # that is for files outside the hub


def _fit(name: str, image_size: Size, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with which the network takes images of a size; the error has sizes that it takes."""
    if (found := _options_for(name, image_size, options)) is not None:
        return found
    height, width = (side // _STRIDE for side in image_size)
    steps = (range(0, -min(5, height, width), -1), range(1, 6))  # to smaller and to larger sizes
    near = [[(_STRIDE * (height + step), _STRIDE * (width + step)) for step in direction] for direction in steps]
    candidates = (*near, [_published_size(name)])
    nearest = {next((s for s in sizes if _options_for(name, s, options) is not None), None) for sizes in candidates}
    if sizes := sorted(size for size in nearest if size):
        raise UserError(
            f"data.image_size={size_text(image_size)} does not fit timm/{name}; "
            f"sizes that do: {', '.join(map(size_text, sizes))}"
        )
    return {**options}  # it is not the size: creating the network says what it is


def _options_for(name: str, size: Size, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options, or these with `img_size`, if the network takes images of `size` with them; else None.

    It runs on the meta device, without memory for its weights and without computing.
    """
    for found in ({**options}, {**options, "img_size": size}) if "img_size" not in options else ({**options},):
        try:
            with torch.device("meta"), torch.no_grad():
                timm.create_model(name, **found).eval()(torch.empty(1, 3, *size))
        except Exception:  # timm and torch raise almost anything for a wrong shape
            continue
        return found
    return None


def _published_size(name: str) -> Size:
    published = timm.get_pretrained_cfg(name)
    return published.input_size[-2:] if published else (224, 224)
