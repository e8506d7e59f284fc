"""A function of a configuration → a program on the command line, with errors that say how to fix them."""

import functools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from alu_defects.config import ALLOWED, check_settings, compose, conf_dir, flat
from alu_defects.errors import UserError, did_you_mean
from alu_defects.overrides import prepare_overrides, setting_of
from alu_defects.signals import Interrupted, interrupting

FIXABLE = (UserError, HydraException, OmegaConfBaseException)  # by the user


def verb(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a command-line program of a function that takes the configuration `conf/<config_name>.yaml`.

    What the user can fix is printed in a line or two and ends the program with exit code 2; HYDRA_FULL_ERROR=1 shows
    tracebacks. SIGTERM and Ctrl-C end it with exit code 143 or 130. In a sweep a job that fails does not stop the
    others; `runs.sweep_callback.SweepCallback` records it, and ends the sweep with a report and with exit code 1.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        @interrupting()
        def main() -> None:
            verbose = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and the fix can be added

            @functools.wraps(task)
            def job(config: DictConfig) -> Any:
                sweep = HydraConfig.get().mode == RunMode.MULTIRUN
                try:
                    check(config, config_name)
                    return task(config)
                except Exception as error:
                    fixable = isinstance(error, FIXABLE)
                    if fixable or sweep:
                        show(error, verbose or not fixable, config_name)
                    if fixable and not sweep:
                        sys.exit(2)  # an exception would make Hydra print all overrides first
                    raise

            try:
                _run(job, config_name)
            except Interrupted as interrupt:
                print(f"interrupted by {interrupt.name}", file=sys.stderr)
                raise
            except FIXABLE as error:
                show(error, verbose, config_name)
                interrupted = error.__context__  # a sweep, whose report then failed
                sys.exit(interrupted.code if isinstance(interrupted, Interrupted) else 2)
            except BrokenPipeError:  # whoever reads has enough, such as head
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(128 + signal.SIGPIPE)
            finally:
                HydraConfig.instance().cfg = None  # what Python calls next is not of this command line
                os.environ["HYDRA_FULL_ERROR"] = "1" if verbose else "0"

        return main

    return decorate


def _run(job: Callable[[DictConfig], Any], config_name: str) -> None:
    """What `hydra.main` does, with prepared overrides: it offers no way to change them but `sys.argv`.

    Both functions are Hydra's own business, and the same in all of 1.3, to which pyproject.toml binds us.
    """
    parser = get_args_parser()
    words = parser.parse_intermixed_args()  # options may stand anywhere: model=xception -m seed=0,1
    if words.experimental_rerun:
        raise UserError("--experimental-rerun reads a pickle, which may run anything; give the words of the command")
    if any(setting_of(word) == "hydra.run.dir" for word in words.overrides):
        raise UserError("hydra.run.dir has no effect; run_dir=<folder> names the folder of a run")
    sweep = words.multirun or "hydra.mode=MULTIRUN" in words.overrides
    words.overrides = prepare_overrides(config_name, words.overrides, sweep)
    hydra.version.setbase("1.3")
    try:
        _run_hydra(words, parser, job, str(conf_dir()), config_name)
    except BaseException:  # a signal, or an error of a launcher
        if sweep:
            from alu_defects.runs.sweep_callback import report_running

            report_running()
        raise


def show(error: Exception, verbose: bool, config_name: str = "train") -> None:
    """Print an error for the user: with its traceback, or in a line or two with the fix."""
    if verbose:
        traceback.print_exception(error)
    print(f"error: {explain_error(error, config_name)}", file=sys.stderr)


def explain_error(error: BaseException, config_name: str) -> str:
    """What is wrong and how to fix it, for errors of the command line, in one or two lines."""
    text = str(error).strip() or str(error.__cause__ or "")  # an error of composing a job says nothing itself
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} is not given; add {match[1]}=… to the command"
    if match := re.search(r"Could not load '([^/']+)/([^']+)'", text):
        return _unknown_choice(match[1], match[2], sorted(file.stem for file in (conf_dir() / match[1]).glob("*.yaml")))
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return _unknown_choice(group, choice, error.options)
    if match := re.match(r"Could not override '([^']+)'", text):
        return _unknown_setting(match[1], config_name, group="No match in the defaults list" in text)
    if "missing EQUAL" in text:
        return f"{text.splitlines()[0].removeprefix('Error parsing override ')} is no setting; write <setting>=<value>"
    return "\n".join(line for line in text.splitlines() if line.strip())


def _unknown_setting(key: str, config_name: str, group: bool) -> str:
    if group:  # of conf/; others are taken for settings
        return f"{config_name} takes no group {key}; leave it out"
    settings = flat(compose(config_name))
    if key in settings:  # with the choices that are the defaults
        return f"there is no setting {key} with this choice of {key.partition('.')[0]}; `--cfg job` shows all."
    return f"there is no setting {key}{did_you_mean(key, settings)} `--cfg job` shows all."


def _unknown_choice(group: str, choice: str, options: Sequence[str]) -> str:
    options = [name for name in options if not name.startswith("_")]  # _base is what others build on
    return f"{group}={choice} does not exist{did_you_mean(choice, options)} There are: {', '.join(options)}"


def check(config: DictConfig, config_name: str) -> None:
    """Raise a `UserError` for a setting that is not given, of another type than its default, or out of its range."""
    resumed = (OmegaConf.select(config, "resume") or "auto") != "auto"  # the run has a configuration of its own
    for key, value in flat(config).items():
        if value == "???" and not resumed:
            raise UserError(f"{key} is not given; add {key}=… to the command")
    overrides = list(HydraConfig.get().overrides.task)
    groups = {p.name for p in conf_dir().iterdir() if p.is_dir()} | set(HydraConfig.get().runtime.choices)
    defaults = hydra.compose(config_name, [o for o in overrides if setting_of(o) in groups])
    for override in overrides:
        key = setting_of(override)
        # trainer.devices is a number, a list or auto, which Lightning checks; words and sizes are checked below
        elsewhere = {"trainer.devices", "data.image_size"}
        elsewhere |= {key for key, allowed in ALLOWED.items() if not allowed.kind}
        if "=" not in override or override.startswith(("+", "~")) or key in groups | elsewhere:
            continue
        try:
            default, value = OmegaConf.select(defaults, key), OmegaConf.select(config, key)
        except InterpolationResolutionError:  # run_dir without the mandatory model.name, say: nothing to compare
            continue
        if default is not None and not _same_kind(default, value):
            wanted = next(kind for types, kind in _KINDS if isinstance(default, types))
            raise UserError(f"{key}={value} is not {wanted}; the default is {key}={default}")
    check_settings(config)


# a type of a default, and what it is called; bool comes before int, since True is an int in Python
_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "a word"),
    (ListConfig, "a list"),
    (DictConfig, "a group of settings"),
)


def _same_kind(default: Any, value: Any) -> bool:
    """Whether a value may replace a default: a whole number any number, all but true and false a word such as auto."""
    if isinstance(default, bool) or isinstance(value, bool):
        return type(default) is type(value) or "auto" in (default, value)
    if isinstance(default, str):
        return isinstance(value, (str, int, float, ListConfig))
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, int if isinstance(default, int) else type(default))
