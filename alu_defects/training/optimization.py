"""The optimizer that a configuration names."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from alu_defects.config import find_class, instantiate
from alu_defects.errors import UserError, check_choice, did_you_mean


def create_optimizer(options: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Make an optimizer.

    Args:
        options: `_target_` and options of a torch optimizer. `fused` only makes it faster: it is ignored where the
            optimizer has no such option.
        parameters: what it changes; all of them from the start, since OneCycleLR refuses groups that come later.

    Raises:
        UserError: a class that is no optimizer or not allowed, or an option that it does not take.
    """
    known = inspect.signature(find_class(Optimizer, options)).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    options = {name: value for name, value in options.items() if name != "fused" or name in known or takes_all}
    for name, value in options.items():
        if not (name == "_target_" or name in known or takes_all):
            raise UserError(
                f"optimizer.{name}={value}: {options['_target_']} has no such option{did_you_mean(name, known)} "
                f"Remove it with ~optimizer.{name}"
            )
    return instantiate(Optimizer, options, params=parameters)


def constant(optimizer: Optimizer, total_steps: int, epochs: int) -> LRScheduler:
    """The same learning rate throughout."""
    return LambdaLR(optimizer, lambda _: 1.0)


def step(optimizer: Optimizer, total_steps: int, epochs: int, step_epochs: int, gamma: float) -> LRScheduler:
    """Multiply the learning rate by `gamma` every `step_epochs` epochs."""
    per_epoch = max(1, round(total_steps / epochs))
    return LambdaLR(optimizer, lambda done: gamma ** (done // (per_epoch * step_epochs)))


def cosine(
    optimizer: Optimizer, total_steps: int, epochs: int, warmup_epochs: float, final_fraction: float
) -> LRScheduler:
    """Rise linearly for `warmup_epochs`, then fall along a cosine to `final_fraction` of the learning rate."""
    warmup = round(warmup_epochs * total_steps / epochs)

    def factor(done: int) -> float:
        if done < warmup:
            return (done + 1) / warmup
        progress = min(1.0, (done - warmup) / max(1, total_steps - warmup))
        return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)


def one_cycle(optimizer: Optimizer, total_steps: int, epochs: int, warmup_fraction: float) -> LRScheduler:
    """Rise to the learning rate during `warmup_fraction` of the training, then fall to almost nothing (Smith 2018)."""
    if warmup_fraction * total_steps in (1, total_steps):  # OneCycleLR would divide by zero
        warmup_fraction -= 0.5 / total_steps
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=peaks, total_steps=total_steps, pct_start=warmup_fraction)


SCHEDULES: dict[str, Callable[..., LRScheduler]] = {
    "none": constant,
    "step": step,
    "cosine": cosine,
    "one_cycle": one_cycle,
}


def create_scheduler(name: str, optimizer: Optimizer, total_steps: int, epochs: int, **options: Any) -> LRScheduler:
    """Make a schedule for `total_steps` batches in `epochs` epochs.

    Raises:
        UserError: an unknown name, options that the schedule does not take, or an optimiser that it cannot steer.
    """
    check_choice("scheduler.name", name, SCHEDULES)
    try:
        return SCHEDULES[name](optimizer, total_steps, epochs, **options)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"scheduler.name={name}: {error}") from error
