"""The backbones by name.

A backbone is a function `(num_classes, *, pretrained, in_chans, drop_rate, **its own options)` that returns a module
with the interface `Backbone`. If it also takes `image_size`, it is given height and width of the images. Another
package adds its own without changing this one:

    [project.entry-points."alu_defects.backbones"]
    my_backbone = "my_package.my_module"     # a module that uses @register, or the function itself
"""

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from itertools import cycle, islice
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch

from alu_defects.config import read_size, size_text
from alu_defects.errors import UserError, did_you_mean
from alu_defects.models import attention as attention_blocks
from alu_defects.models.backbone import Backbone
from alu_defects.models.pretrained import SURFACES, Published, shipped_file
from alu_defects.models.weights import load_weights

_log = logging.getLogger(__name__)

ENTRY_POINTS = "alu_defects.backbones"

F = TypeVar("F", bound=Callable[..., Any])


class _Entry(NamedTuple):
    factory: Callable[..., Any]
    attention: str  # part of the name; "none" leaves it to the caller
    published: Callable[..., Published] | None = None  # of the backbone's own options


_registry: dict[str, _Entry] = {}


def register(
    name: str, *, attention: str = "none", published: Callable[..., Published] | None = None
) -> Callable[[F], F]:
    """Register a function as backbone `name`, which must be free.

    `attention` is what this name has by default; `published` says, of the function's own options, what weights there
    are for `pretrained=True`.
    """

    def add(factory: F) -> F:
        if name in _registry:
            raise ValueError(f"backbone '{name}' is registered already, by {_registry[name].factory.__module__}")
        _registry[name] = _Entry(factory, attention, published)
        return factory

    return add


@functools.cache
def _load_members() -> None:
    for member in ("inception", "shufflenet", "xception"):
        import_module(f"alu_defects.models.{member}")
    for point in entry_points(group=ENTRY_POINTS):
        try:
            loaded = point.load()
            known = _registry.get(point.name)
            if not isinstance(loaded, ModuleType) and (known is None or known.factory is not loaded):
                register(point.name)(loaded)
        except Exception as error:  # one broken plug-in must not hide the other backbones
            _log.warning("The backbone plug-in %s = %s cannot be loaded: %r", point.name, point.value, error)


def backbone_names() -> list[str]:
    """Return the names of all backbones, sorted; `timm/<name>` exists besides."""
    _load_members()
    return sorted(_registry)


def create_backbone(
    name: str,
    num_classes: int,
    *,
    image_size: int | Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    pretrained: bool | str = False,
    weights: str | Path | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    attention: str = "none",
    attention_stages: str | Iterable[str] | None = None,
    attention_reduction: int = 16,
    attention_fusion: str = "sum",
    **options: Any,
) -> Backbone:
    """Create a backbone.

    Args:
        name: One of `backbone_names()`, or `timm/<name>` for any network of timm.
        num_classes: Width of the classifier.
        image_size: Height and width in pixels of its images, or one number for both; None: any that it takes.
        classes: Their names; the classifier of a file for other classes is not loaded.
        pretrained: True loads the published weights, from the cache or the network, "surfaces" those of this package.
            The classifier is new unless it is for the same classes, or of published weights for as many.
        weights: A local file instead (see `load_weights`).
        in_chans: Channels of the images.
        drop_rate: Dropout before the classifier.
        attention: none, cse, sse or scse; a name such as inceptionv4_scse brings its own.
        attention_stages: After which blocks; the docstring of each backbone names its stages. None: all.
        attention_reduction: Squeeze ratio r of the channel attention.
        attention_fusion: sum (eq. 6) or max, for scse.
        options: The backbone's own, such as `width` of shufflenet.

    Raises:
        UserError: A name, option or file that is not there or does not fit, or an image size that is too small.
    """
    size = None if image_size is None else read_size(image_size)
    if pretrained not in (True, False, SURFACES):
        raise UserError(f"pretrained={pretrained} is not true, false or {SURFACES}.")
    if pretrained and weights is not None:
        raise UserError(f"pretrained={str(pretrained).lower()} and weights={weights} exclude each other; remove one.")
    entry = _find(name)
    parameters = inspect.signature(entry.factory).parameters
    for option in options if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()) else ():
        if option not in parameters:
            raise UserError(f"Backbone '{name}' takes no option '{option}'{did_you_mean(option, parameters)}")
    kind = _attention_kind(name, entry.attention, attention)
    if "image_size" in parameters:
        options["image_size"] = size
    model: Backbone = entry.factory(
        num_classes, pretrained=pretrained is True, in_chans=in_chans, drop_rate=drop_rate, **options
    )
    if size is not None and any(side < least for side, least in zip(size, model.min_input_size, strict=True)):
        raise UserError(
            f"data.image_size={size_text(size)} is too small for {name}; give {size_text(model.min_input_size)} or more"
        )
    if kind != "none":
        points = getattr(model, "attention_points", None)
        if points is None:
            known = ", ".join(known for known in backbone_names() if _registry[known].attention == "none")
            raise UserError(f"attention={kind} has no place in '{name}'; backbones that take it: {known}.")
        attention_blocks.insert_attention(
            model, points, kind, stages=attention_stages, reduction=attention_reduction, fusion=attention_fusion
        )
    published = published_weights(name, **options)
    if pretrained == SURFACES:
        weights = shipped_file(published.network)
    chosen = {"name": name, "attention": attention, "attention_stages": attention_stages, **options}
    chosen["attention_reduction"] = attention_reduction
    model.loaded = load_weights(model, weights, classes, chosen) if weights is not None else ""
    if pretrained is True:
        new = {"its classifier": num_classes != published.classes, "its attention": kind != "none"}
        model.loaded = f"new: {' and '.join(part for part, is_new in new.items() if is_new) or 'nothing'}"
    model.input_mean = _per_channel(model.input_mean, in_chans)
    model.input_std = _per_channel(model.input_std, in_chans)
    return model


def check_backbone(*, image_size: int | Sequence[int] | None, **model: Any) -> None:
    """Raise what `create_backbone` would for the name, the options and the image size, in a moment and without weights.

    Files of weights are not looked at, nor is the image size where it is not known yet, None.
    """
    try:
        with torch.device("meta"):  # no memory, no random numbers
            create_backbone(**{**model, "pretrained": False, "weights": None}, num_classes=2, image_size=image_size)
    except UserError:
        raise
    except Exception as error:  # of a network that needs memory to be made: making it will say what is wrong
        _log.debug("%s cannot be checked before it is made: %r", model["name"], error)


def published_weights(name: str, **options: Any) -> Published:
    """What is published for a backbone with these options of `create_backbone`; nothing if it does not say."""
    published = _find(name).published
    if published is None:
        return Published(name)
    own = inspect.signature(published).parameters
    return published(**{key: value for key, value in options.items() if key in own})


def module_of(name: str) -> str:
    """The module that creates a backbone, such as `alu_defects.models.inception`; no such backbone is a `UserError`."""
    factory = _find(name).factory
    return str((factory.func if isinstance(factory, functools.partial) else factory).__module__)


def _find(name: str) -> _Entry:
    if name.startswith("timm/"):
        from alu_defects.models.timm import timm_backbone, timm_weights

        own = name.removeprefix("timm/")
        return _Entry(functools.partial(timm_backbone, own), "none", functools.partial(timm_weights, own))
    if name not in (known := backbone_names()):
        raise UserError(
            f"Unknown backbone '{name}'{did_you_mean(name, known)} "
            f"All: {', '.join(known)}, and timm/<name> for every network of timm."
        )
    return _registry[name]


def _attention_kind(name: str, promised: str, asked: str) -> str:
    if asked not in attention_blocks.KINDS:
        attention_blocks.build(asked, 1)  # raises, with the nearest kind
    if "none" in (promised, asked) or promised == asked:
        return promised if asked == "none" else asked
    raise UserError(
        f"'{name}' has attention {promised}, not {asked}; remove model.attention or take the plain backbone."
    )


def _per_channel(values: tuple[float, ...], in_chans: int) -> tuple[float, ...]:
    """Fit RGB statistics to other channels as timm fits the first convolution: one is the mean, more repeat."""
    if in_chans == 1:
        return (sum(values) / len(values),)
    return tuple(islice(cycle(values), in_chans))
