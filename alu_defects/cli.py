"""A function of a configuration → a program on the command line, with errors that say how to fix them."""

import contextlib
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from alu_defects.config import compose, conf_dir, flat, prepare_overrides, setting_of
from alu_defects.errors import UserError, did_you_mean
from alu_defects.signals import Interrupted, interrupting


def verb(
    config_name: str,
    after_sweep: Callable[[Path], None] | None = None,
    failed: Callable[[Path, DictConfig, Exception], None] | None = None,
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a command-line program of a function that takes the configuration `conf/<config_name>.yaml`.

    What the user can fix is printed in a line or two and ends the program with exit code 2. In a multirun a job that
    fails does not stop the others; the exit code is then 1. SIGTERM and Ctrl-C end a multirun as a whole, after
    `after_sweep`, with exit code 143 or 130. HYDRA_FULL_ERROR=1 shows tracebacks.

    Args:
        config_name: the primary configuration.
        after_sweep: called with the sweep's folder when a multirun has ended.
        failed: called with the folder, the configuration and the error of a job of a multirun that failed.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        @interrupting()
        def main() -> None:
            verbose = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and the fix can be added
            sweep_dirs: set[Path] = set()
            failures: list[str] = []
            made: list[Path] = []  # what Hydra made for a run that a wrong word may have prevented
            raised: list[Exception] = []  # by a single job; Hydra would print all overrides before it raises it again
            interrupted: Interrupted | None = None

            @functools.wraps(task)
            def job(config: DictConfig) -> Any:
                made.append(Path(HydraConfig.get().runtime.output_dir))
                multirun = HydraConfig.get().mode == RunMode.MULTIRUN
                if multirun:
                    sweep_dirs.add(Path(HydraConfig.get().sweep.dir))
                try:
                    check(config, config_name)
                    return task(config)
                except Exception as error:
                    if not multirun:
                        raised.append(error)
                        return None
                    # recorded, shown, and in the exit code: the other jobs continue
                    failures.append(" ".join(HydraConfig.get().overrides.task))
                    if failed:
                        failed(made[-1], config, error)
                    show(error, verbose or not isinstance(error, UserError))
                    return None

            try:
                try:
                    _run(job, config_name)
                except Interrupted as signal:
                    interrupted = signal
                if raised:
                    raise raised.pop()
                if failures:
                    print("failed jobs:", *failures, sep="\n  ", file=sys.stderr)
                for folder in sweep_dirs if after_sweep else ():
                    after_sweep(folder)  # type: ignore[misc]
            except (UserError, HydraException, OmegaConfBaseException) as error:
                show(error, verbose, config_name)
                sys.exit(interrupted.code if interrupted else 2)
            finally:
                HydraConfig.instance().cfg = None  # what Python calls next is not of this command line
                os.environ["HYDRA_FULL_ERROR"] = "1" if verbose else "0"
                for folder in set(made) - {Path.cwd()}:  # verbs without a folder of their own run where the user is
                    with contextlib.suppress(OSError):  # it holds something: a run
                        folder.rmdir()
            if interrupted:
                print(f"interrupted by {interrupted.name}", file=sys.stderr)
                raise interrupted
            if failures:
                sys.exit(1)

        return main

    return decorate


def _run(job: Callable[[DictConfig], Any], config_name: str) -> None:
    """What `hydra.main` does, with prepared overrides: it offers no way to change them but `sys.argv`.

    Both functions are Hydra's own business, and the same in all of 1.3, to which pyproject.toml binds us.

    Raises:
        UserError: an option of Hydra that has no place here.
    """
    parser = get_args_parser()
    words = parser.parse_intermixed_args()  # options may stand anywhere: model=xception -m seed=0,1
    if words.experimental_rerun:
        raise UserError("--experimental-rerun reads a pickle, which may run anything; give the words of the command")
    sweep = words.multirun or "hydra.mode=MULTIRUN" in words.overrides
    words.overrides = prepare_overrides(config_name, words.overrides, sweep)
    hydra.version.setbase("1.3")
    _run_hydra(words, parser, job, str(conf_dir()), config_name)


def show(error: Exception, verbose: bool, config_name: str = "train") -> None:
    """Print an error for the user: with its traceback, or in a line or two with the fix."""
    if verbose:
        traceback.print_exception(error)
    print(f"error: {explain(error, config_name)}", file=sys.stderr)


def explain(error: BaseException, config_name: str) -> str:
    """What is wrong and how to fix it, for errors of the command line, in one or two lines."""
    text = str(error).strip()
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} is not given; add {match[1]}=… to the command"
    if match := re.search(r"Could not load '([^/']+)/([^']+)'", text):
        return _unknown_choice(match[1], match[2], sorted(file.stem for file in (conf_dir() / match[1]).glob("*.yaml")))
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return _unknown_choice(group, choice, error.options)
    if match := re.match(r"Could not override '([^']+)'", text):
        if "No match in the defaults list" in text:  # a group of conf/; others are taken for settings
            return f"{config_name} takes no group {match[1]}; leave it out"
        return f"there is no setting {match[1]}{did_you_mean(match[1], _settings(config_name))} `--cfg job` shows all."
    return "\n".join(line for line in text.splitlines() if line.strip())


def _unknown_choice(group: str, choice: str, options: Sequence[str]) -> str:
    options = [name for name in options if not name.startswith("_")]  # _base is what others build on
    return f"{group}={choice} does not exist{did_you_mean(choice, options)} There are: {', '.join(options)}"


def check(config: DictConfig, config_name: str) -> None:
    """Compare what the command line gives with the defaults it replaces.

    Raises:
        UserError: a mandatory setting is not given, or one is of another type: a word where a number is asked for, say.
    """
    resumed = (OmegaConf.select(config, "resume") or "auto") != "auto"  # the run has a configuration of its own
    for key, value in flat(config).items():
        if value == "???" and not resumed:
            raise UserError(f"{key} is not given; add {key}=… to the command")
    overrides = list(HydraConfig.get().overrides.task)
    values = [setting_of(o) for o in overrides if "=" in o and not o.startswith(("+", "~"))]
    groups = {p.name for p in conf_dir().iterdir() if p.is_dir()} | set(HydraConfig.get().runtime.choices)
    defaults = hydra.compose(config_name, [o for o in overrides if setting_of(o) in groups])
    for key in values:
        if key in groups or key == "trainer.devices":  # a number, a list or auto, which Lightning checks
            continue
        try:
            default, value = OmegaConf.select(defaults, key), OmegaConf.select(config, key)
        except InterpolationResolutionError:  # run_dir without the mandatory model.name, say: nothing to compare
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
    if isinstance(default, (bool, str)) and isinstance(value, (bool, str)) and "auto" in (default, value):
        return True  # where true and false can be chosen automatically
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, (bool, str)) and isinstance(value, (bool, str)) and type(value) is type(default)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, str):  # such as auto, which a number or a list may replace
        return isinstance(value, (str, int, float, ListConfig))
    return isinstance(value, (int,) if isinstance(default, int) else type(default))


def _settings(config_name: str) -> list[str]:
    return list(flat(compose(config_name)))
