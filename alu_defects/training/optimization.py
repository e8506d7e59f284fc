"""Optimizers and learning-rate schedules, as a configuration names them."""

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from alu_defects.config import find_class, instantiate
from alu_defects.errors import UserError, check_choice, did_you_mean


def check_options(group: str, kind: type[Any], options: Mapping[str, Any]) -> None:
    """Raise a `UserError` if the class in a group of the configuration is refused or does not take an option."""
    known = inspect.signature(find_class(kind, options)).parameters
    for name, value in options.items():
        if name != "_target_" and not _takes(known, name):
            raise UserError(
                f"{group}.{name}={value}: {options['_target_']} has no such option{did_you_mean(name, known)} "
                f"Remove it with ~{group}.{name}"
            )


def _takes(known: Mapping[str, inspect.Parameter], option: str) -> bool:
    return option in known or any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())


def create_optimizer(options: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Create an optimizer from `_target_` and options; `fused` is ignored where it has no such option.

    It gets all parameters from the start, since OneCycleLR refuses groups that are added later.

    Raises:
        UserError: a class that is no optimizer or not allowed, or an option that it does not take.
    """
    takes_fused = _takes(inspect.signature(find_class(Optimizer, options)).parameters, "fused")
    options = {name: value for name, value in options.items() if name != "fused" or takes_fused}
    check_options("optimizer", Optimizer, options)
    return instantiate(Optimizer, options, params=parameters)


class OneCycle(OneCycleLR):
    """PyTorch's OneCycleLR (Smith 2018), whose `max_lr` is the learning rate of the optimizer unless it is given.

    Where its first part has one step or all of them, PyTorch divides by zero; the part is then half a step shorter.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, pct_start: float = 0.3, **options: Any) -> None:
        if pct_start * total_steps in (1, total_steps):
            pct_start -= 0.5 / total_steps
        options = {"max_lr": [float(group["lr"]) for group in optimizer.param_groups], **options}
        super().__init__(optimizer, total_steps=total_steps, pct_start=pct_start, **options)


class WarmupCosine(LambdaLR):
    """Rise linearly for `warmup_epochs`, then fall along a cosine to `final_fraction` of the learning rate."""

    def __init__(
        self, optimizer: Optimizer, total_steps: int, epochs: int, warmup_epochs: float, final_fraction: float
    ) -> None:
        warmup = round(warmup_epochs * total_steps / epochs)

        def factor(done: int) -> float:
            if done < warmup:
                return (done + 1) / warmup
            progress = min(1.0, (done - warmup) / max(1, total_steps - warmup))
            return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2

        super().__init__(optimizer, factor)


def create_scheduler(
    options: Mapping[str, Any], optimizer: Optimizer, total_steps: int, epochs: int
) -> LRSchedulerConfigType:
    """Create a learning-rate schedule, in the form that Lightning takes, from `_target_` and options.

    `interval` among them says whether it advances after each optimizer step or after each epoch. `total_steps` (how
    often it advances) and `epochs` are filled in where needed.

    Raises:
        UserError: no scheduler, one that is refused or needs a metric, an option or an optimizer that it does not take.
    """
    options = dict(options)
    interval = options.pop("interval", "step")
    check_choice("scheduler.interval", interval, ("step", "epoch"))
    check_options("scheduler", LRScheduler, options)
    found = find_class(LRScheduler, options)
    if issubclass(found, ReduceLROnPlateau):  # Lightning advances it after the checkpoint of the epoch was written
        raise UserError(f"scheduler._target_={options['_target_']}: a run could not resume with it; take another one")
    if options.get("step_size") == 0:  # PyTorch divides by it at the end of the first epoch
        raise UserError(f"scheduler.step_size=0 must be 1 or more for {options['_target_']}")
    known = {"total_steps": total_steps if interval == "step" else epochs, "epochs": epochs}
    options = {name: value for name, value in known.items() if name in inspect.signature(found).parameters} | options
    try:
        return {"scheduler": instantiate(LRScheduler, options, optimizer=optimizer), "interval": interval}
    except ZeroDivisionError as error:
        raise UserError(f"{options['_target_']} cannot be made from the configuration: {error}") from error
