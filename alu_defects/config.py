"""The configuration: where conf/ lies, what it is made of, what it may hold and what it may instantiate.

What a setting may be is in one table, `ALLOWED`. What is typed is prepared for Hydra in `overrides`.
"""

import copy
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from alu_defects.errors import UserError, check_choice, did_you_mean
from alu_defects.overrides import PATH_SETTINGS, prepare_overrides

T = TypeVar("T")
Size = tuple[int, int]  # height and width in pixels

# Prefixes of `_target_`: a configuration from outside must not be able to call anything else.
INSTANTIABLE = ("alu_defects.", "torch.optim.", "lightning.pytorch.", "torchvision.transforms.", "timm.")

# Model names such as timm/resnet18 become part of a folder's name.
OmegaConf.register_new_resolver("slug", lambda text: re.sub(r"[^\w.-]+", "-", str(text)), replace=True)


def conf_dir() -> Path:
    """The folder of the configuration files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def compose(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of a verb as its command line would make it: `train(compose("train", ["model=xception"]))`."""
    words = prepare_overrides(config_name, overrides)
    if GlobalHydra.instance().is_initialized():  # inside a verb: also what -cd added is found
        return hydra.compose(config_name, words)
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(config_name, words)


def absolute_paths(config: DictConfig) -> DictConfig:
    """A copy whose paths mean the same in every working directory, with ~ expanded."""

    def absolute(path: Any) -> str:
        return str(Path(str(path)).expanduser().absolute())

    config = copy.deepcopy(config)
    for key in PATH_SETTINGS:
        value = OmegaConf.select(config, key, throw_on_resolution_failure=False)
        if isinstance(value, ListConfig):
            OmegaConf.update(config, key, [absolute(path) for path in value])
        elif value and (key, value) != ("resume", "auto"):
            OmegaConf.update(config, key, absolute(value))
    return config


def model_options(name: str) -> dict[str, Any]:
    """The group `model` for a backbone: that of conf/model/<name>.yaml, or timm's for `timm/<network>`."""
    words = ["model=timm", f"model.name={name}"] if "/" in name else [f"model={name}"]
    options: dict[str, Any] = plain(compose("train", words).model)
    if options["name"] == "???":
        raise UserError(f"model={name} names no network; give model={name}/<any network of {name}>")
    return options


def plain(config: Any) -> Any:
    """A configuration as dicts, lists, strings and numbers, interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def backbone_options(model: Mapping[str, Any]) -> dict[str, Any]:
    """The group `model` for `models.registry.create_backbone`, without the settings of optimizer and trainer."""
    return {key: value for key, value in model.items() if key not in ("learning_rate", "steps")}


@dataclass(frozen=True)
class Allowed:
    """What a setting may be: some words, or a number of a kind in a range, or a list of `length` such numbers.

    With `single` it is the list or one number.
    """

    kind: type[int] | type[float] | None = None
    lowest: float = -math.inf
    highest: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    words: tuple[str, ...] = ()
    null: bool = False
    length: int = 0
    single: bool = False

    def check(self, key: str, value: Any) -> None:
        """Raise a `UserError` that says what is allowed, unless the value is."""
        if (str(value).lower() if isinstance(value, bool) else value) in self.words or (self.null and value is None):
            return
        if self.kind is None:
            check_choice(key, value, self.words)
        is_list = self.length > 0 and isinstance(value, list) and len(value) == self.length
        numbers = value if is_list else [value] if self.single or not self.length else []
        kinds = (int,) if self.kind is int else (int, float)
        instead = "".join(f" or {word}" for word in self.words)
        if not numbers or not all(type(number) in kinds for number in numbers):
            wanted = "a whole number" if self.kind is int else "a number"
            listed = f"a list of {self.length} whole numbers"
            wanted = f"{wanted} or {listed}" if self.single else listed if self.length else wanted
            raise UserError(f"{key}={value} is not {wanted}{instead}")
        if not all(self.lowest <= n <= self.highest and self.above < n < self.below for n in numbers):
            raise UserError(f"{key}={value} must be {self._range()}{instead}")

    def _range(self) -> str:
        if self.highest < math.inf:
            return f"from {self.lowest} to {self.highest}"
        limits = (f"{self.lowest} or more", f"above {self.above}", f"below {self.below}")
        return " and ".join(limit for limit in limits if "inf" not in limit)


# What depends on the images, or on another setting, is checked where it is used; so are names of networks, sources,
# splits, losses and the like, which their modules know.
ALLOWED = {
    "seed": Allowed(int, lowest=0),
    "batch_size": Allowed(int, lowest=1),
    "images": Allowed(int, lowest=1),
    "max_pixels": Allowed(int, lowest=1),
    "top_k": Allowed(int, lowest=1, null=True),
    "augment.blur": Allowed(float, lowest=0, highest=10),
    "augment.crop": Allowed(float, lowest=0.01, highest=1),
    "augment.cutmix": Allowed(float, lowest=0),
    "augment.erase": Allowed(float, lowest=0, highest=1),
    "augment.mixup": Allowed(float, lowest=0),
    "augment.noise": Allowed(float, lowest=0, highest=1),
    "data.batch_size": Allowed(int, lowest=1),
    "data.cache": Allowed(words=("auto", "device", "memory", "disk", "none")),
    "data.image_size": Allowed(int, lowest=1, length=2, single=True, words=("auto",)),
    "data.max_pixels": Allowed(int, lowest=1),
    "data.num_workers": Allowed(int, lowest=0, words=("auto",)),
    "data.on_broken": Allowed(words=("error", "exclude")),
    "data.sampler": Allowed(words=("shuffle", "balanced")),
    "data.resize": Allowed(words=("squash", "letterbox")),
    "data.surfaces.defects": Allowed(int, lowest=0, highest=1000),
    "data.surfaces.images": Allowed(int, lowest=2),
    "data.surfaces.seed": Allowed(int, lowest=0),
    "data.surfaces.side": Allowed(int, lowest=32, highest=1024),
    "data.surfaces.textures": Allowed(int, lowest=1),
    "data.synthetic.multi_defect": Allowed(int, lowest=0),
    "data.synthetic.seed": Allowed(int, lowest=0),
    "data.synthetic.severity": Allowed(float, lowest=0.1, highest=2),
    "data.synthetic.size": Allowed(int, lowest=64, highest=4096, length=2),
    "loss.gamma": Allowed(float, lowest=0),
    "max_bytes": Allowed(int, lowest=1),
    "max_nonfinite": Allowed(int, lowest=0),
    "model.pretrained": Allowed(words=("true", "false", "auto", "surfaces")),
    "model.steps": Allowed(int, lowest=1),
    "near_duplicates.max_distance": Allowed(int, lowest=0, highest=1024),  # bits of a hash
    "operating.choose_on": Allowed(words=("val", "new")),
    "operating.confidence_level": Allowed(float, above=0, below=1, null=True),
    "operating.max_escape": Allowed(float, above=0, below=1, null=True),
    "operating.reject": Allowed(float, lowest=0, below=1, null=True),
    "operating.target_accuracy": Allowed(float, above=0, below=1),
    "optimizer.decay_norms": Allowed(words=("true", "false")),
    "optimizer.layer_decay": Allowed(float, lowest=0.01, highest=1),
    "split.by": Allowed(words=("session", "image")),
    "port": Allowed(int, lowest=0, highest=65535),
    "queue": Allowed(int, lowest=1),
    "poll": Allowed(float, above=0),
    "reference_images": Allowed(int, lowest=250),  # the spread of ten batches
    "settle": Allowed(float, lowest=0),
    "transfer": Allowed(words=("copy", "move")),
    "scheduler.step_size": Allowed(int, lowest=1),
    "split.fold": Allowed(int, lowest=0),
    "split.k": Allowed(int, lowest=3),  # one fold tests, one validates, the others train
    "split.seed": Allowed(int, lowest=0),
    "sweep.jobs": Allowed(int, lowest=1, words=("auto",)),
    "timeout": Allowed(float, above=0),
    "trainer.max_epochs": Allowed(int, lowest=1, words=("auto",)),
    "tta": Allowed(words=("none", "flip")),
}


def check_settings(config: DictConfig) -> None:
    """Raise a `UserError` if one of the settings of `ALLOWED` that a configuration has is not what it may be."""
    for key, allowed in ALLOWED.items():
        try:
            value = plain(OmegaConf.select(config, key, default="???"))
        except InterpolationResolutionError:  # of a mandatory setting that is not given, which is said elsewhere
            continue
        if value != "???":  # it has this setting
            allowed.check(key, value)


def whole_numbers(config: DictConfig, key: str, least: int = 1) -> list[int]:
    """The setting `key`, a list of whole numbers of at least `least`; a `UserError` if it is another or empty."""
    values = plain(config[key])
    if not values or not all(type(value) is int and value >= least for value in values):
        raise UserError(f"{key}={values}: give whole numbers from {least} on, as in {key}=[{least},{2 * least}]")
    return list(values)


def read_size(value: int | Sequence[int]) -> Size:
    """The height and width that a setting such as `data.image_size` means: one number is both."""
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


def size_text(size: Size) -> str:
    """A size as it is typed: 400 or [96,160]."""
    height, width = size
    return str(height) if height == width else f"[{height},{width}]"


def image_sizes(config: DictConfig, default: Size = (128, 128)) -> list[Size]:
    """The setting `image_sizes`, a list of what `data.image_size` may be; a `UserError` if it is another or empty."""
    values = plain(config.image_sizes)
    if values is None:
        return [default]
    if not isinstance(values, list) or not values or "auto" in values:
        raise UserError(f"image_sizes={values}: give a list, as in image_sizes=[128,[96,160]]")
    for value in values:
        ALLOWED["data.image_size"].check("image_sizes", value)
    return [read_size(value) for value in values]


def find_class(kind: type[T], config: Mapping[str, Any]) -> type[T]:
    """The class that `config["_target_"]` names; a `UserError` if it is not there, not allowed or not of that kind."""
    target = str(config.get("_target_"))
    article = "an" if kind.__name__[0] in "AEIO" else "a"
    refused = f"_target_={target} may not be instantiated; allowed is {article} {kind.__name__} of "
    refused += ", ".join(prefix.rstrip(".") for prefix in INSTANTIABLE)
    if not target.startswith(INSTANTIABLE):
        raise UserError(refused)
    try:
        found = hydra.utils.get_object(target)
    except (TypeError, ValueError, ImportError) as error:
        module, _, name = target.rpartition(".")
        members = vars(sys.modules[module]) if module in sys.modules else {}
        known = [n for n, member in members.items() if isinstance(member, type) and issubclass(member, kind)]
        raise UserError(f"_target_={target} does not exist{did_you_mean(name, known)}") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(refused)
    return found


def instantiate(kind: type[T], config: Mapping[str, Any], **kwargs: Any) -> T:
    """Make an object of the class that `config["_target_"]` names, from the other entries and `kwargs`.

    It must be of a kind: among the functions of these packages are some that call whatever they are told to.

    Raises:
        UserError: the target is outside `INSTANTIABLE`, is not of that kind or does not take these arguments.
    """
    found = find_class(kind, config)
    try:
        return found(**{k: v for k, v in config.items() if k != "_target_"}, **kwargs)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"{config['_target_']} cannot be made from the configuration: {error}") from error


def flat(config: DictConfig) -> dict[str, Any]:
    """Every setting, `optimizer` and `optimizer.lr` alike, with its value as it was written."""
    settings: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        for name, child in node.items() if isinstance(node, dict) else ():
            settings[f"{prefix}{name}"] = child
            walk(f"{prefix}{name}.", child)

    walk("", OmegaConf.to_container(config))
    return settings
