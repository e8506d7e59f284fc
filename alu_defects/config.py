"""Where conf/ lies, how a verb is started from it, and what a configuration may instantiate."""

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from alu_defects.errors import UserError, did_you_mean

# Prefixes of `_target_`: a configuration from outside must not be able to call anything else.
INSTANTIABLE = ("alu_defects.", "torch.optim.", "lightning.pytorch.", "torchvision.transforms.", "timm.")

# Model names such as timm/resnet18 become part of a folder's name.
OmegaConf.register_new_resolver("slug", lambda text: re.sub(r"[^\w.-]+", "-", str(text)), replace=True)

OmegaConf.register_new_resolver("first", lambda *values: next(value for value in values if value), replace=True)


def conf_dir() -> Path:
    """The folder of the configuration files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def compose(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of a verb as its command line would make it: `train(compose("train", ["model=xception"]))`."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(config_name, list(overrides))


def plain(config: Any) -> Any:
    """A configuration as dicts, lists, strings and numbers, interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def instantiate(config: Mapping[str, Any], **kwargs: Any) -> Any:
    """Call what `config["_target_"]` names with the other entries and `kwargs`.

    Raises:
        UserError: the target is outside `INSTANTIABLE`, or does not take these arguments.
    """
    target = str(config.get("_target_"))
    if not target.startswith(INSTANTIABLE):
        raise UserError(f"_target_={target} may not be instantiated; allowed are {', '.join(INSTANTIABLE)}…")
    try:
        return hydra.utils.get_object(target)(**{k: v for k, v in config.items() if k != "_target_"}, **kwargs)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"{target} cannot be made from the configuration: {error}") from error


def verb(
    config_name: str,
    after_sweep: Callable[[Path], None] | None = None,
    shorthands: Mapping[str, str] | None = None,
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a command-line program of a function that takes the configuration `conf/<config_name>.yaml`.

    What the user can mend is printed in a line or two and ends the program with exit code 2. In a multirun a job that
    fails does not stop the others; the exit code is then 1. HYDRA_FULL_ERROR=1 shows tracebacks.

    Args:
        config_name: the primary configuration.
        after_sweep: called with the sweep's folder when all jobs of a multirun have ended.
        shorthands: what the user types → the setting, for a name that Hydra would take for a group of conf/.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def main() -> None:
            verbose = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and the mend can be added
            sweep_dirs: set[Path] = set()
            failures: list[str] = []
            for short, key in (shorthands or {}).items():
                sys.argv = [re.sub(rf"^{short}=", f"{key}=", word) for word in sys.argv]

            @functools.wraps(task)
            def job(config: DictConfig) -> Any:
                if HydraConfig.get().mode != RunMode.MULTIRUN:
                    check(config, config_name)
                    return task(config)
                sweep_dirs.add(Path(HydraConfig.get().sweep.dir))
                try:
                    check(config, config_name)
                    return task(config)
                except Exception as error:  # recorded, shown, and in the exit code: the other jobs go on
                    failures.append(" ".join(HydraConfig.get().overrides.task))
                    show(error, verbose or not isinstance(error, UserError))
                    return None

            try:
                hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(job)()
                for folder in sweep_dirs if after_sweep else ():
                    after_sweep(folder)  # type: ignore[misc]
            except (UserError, HydraException, OmegaConfBaseException) as error:
                show(error, verbose, config_name)
                sys.exit(2)
            if failures:
                print("failed jobs:", *failures, sep="\n  ", file=sys.stderr)
                sys.exit(1)

        return main

    return decorate


def show(error: Exception, verbose: bool, config_name: str = "train") -> None:
    """Print an error for the user: with its traceback, or in a line or two with the mend."""
    if verbose:
        traceback.print_exception(error)
    print(f"error: {explain(error, config_name)}", file=sys.stderr)


def explain(error: BaseException, config_name: str) -> str:
    """What is wrong and how to mend it, for errors of the command line, in one or two lines."""
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        options = [name for name in error.options if not name.startswith("_")]  # _base is what others build on
        return f"{group}={choice} does not exist{did_you_mean(choice, options)} There are: {', '.join(options)}"
    if match := re.match(r"Could not override '([^']+)'", text):
        if "No match in the defaults list" in text:
            groups = [p.name for p in conf_dir().iterdir() if p.is_dir()]
            return f"there is no group {match[1]}{did_you_mean(match[1], groups)}"
        return f"there is no setting {match[1]}{did_you_mean(match[1], _keys(config_name))} `--cfg job` shows all."
    return "\n".join(line for line in text.splitlines() if line.strip())


def check(config: DictConfig, config_name: str) -> None:
    """Compare what the command line gives with the defaults it replaces.

    Raises:
        UserError: a mandatory setting is not given, or one is of another type: a word where a number is asked for, say.
    """
    for key, value in _flat(config).items():
        if value == "???":
            raise UserError(f"{key} is not given; add {key}=… to the command")
    overrides = list(HydraConfig.get().overrides.task)
    values = [o.split("=", 1)[0] for o in overrides if "=" in o and not o.startswith(("+", "~"))]
    groups = {p.name for p in conf_dir().iterdir() if p.is_dir()} | set(HydraConfig.get().runtime.choices)
    defaults = hydra.compose(config_name, [o for o in overrides if o.split("=", 1)[0].lstrip("+~") in groups])
    for key in values:
        if key in groups:
            continue
        try:
            default, value = OmegaConf.select(defaults, key), OmegaConf.select(config, key)
        except InterpolationToMissingValueError:  # run_dir without the mandatory model.name, say: nothing to compare
            continue
        if default is not None and not _same_kind(default, value):
            wanted = next(kind for types, kind in _KINDS if isinstance(default, types))
            raise UserError(f"{key}={value} is not {wanted}; the default is {key}={default}")


# bool before int: True is an int in Python
_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "a word"),
    (ListConfig, "a list"),
    (DictConfig, "a group of settings"),
)


def _same_kind(default: Any, value: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, (bool, str)) and isinstance(value, (bool, str)) and type(value) is type(default)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, str):  # such as auto, which a number or a list may replace
        return isinstance(value, (str, int, float, ListConfig))
    return isinstance(value, (int,) if isinstance(default, int) else type(default))


def _keys(config_name: str) -> list[str]:
    return list(_flat(compose(config_name)))


def _flat(config: DictConfig) -> dict[str, Any]:
    """Every setting, `optimizer` and `optimizer.lr` alike, with its value as it was written."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                flat[f"{prefix}{name}"] = child
                walk(f"{prefix}{name}.", child)

    walk("", OmegaConf.to_container(config))
    return flat
