"""Optimizers and learning-rate schedules, as a configuration names them."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from alu_defects.config import find_class, instantiate
from alu_defects.errors import UserError, check_choice, did_you_mean
from alu_defects.models.backbone import layer_depths


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


def create_optimizer(options: Mapping[str, Any], backbone: nn.Module) -> Optimizer:
    """Create an optimizer from `_target_` and options; `fused` is ignored where it has no such option.

    It gets all parameters from the start, since OneCycleLR refuses groups that are added later. The first group has the
    learning rate of the classifier.

    Args:
        options: those of the class; `layer_decay`, by which the learning rate is multiplied from each layer to the one
            below, from the classifier down (BEiT, Bao et al. 2022); `decay_norms`, false: no weight decay on biases,
            norms and other parameters with one dimension, nor on those that the network names in timm's
            `no_weight_decay`.
        backbone: the network.

    Raises:
        UserError: a class that is no optimizer or not allowed, an option that it does not take, or a `layer_decay` for
            a network that does not say what its layers are.
    """
    options = {"layer_decay": 1.0, "decay_norms": True, **options}
    layer_decay, decay_norms = options.pop("layer_decay"), options.pop("decay_norms")
    known = inspect.signature(find_class(Optimizer, options)).parameters
    options = {name: value for name, value in options.items() if name != "fused" or _takes(known, "fused")}
    check_options("optimizer", Optimizer, options)
    if not decay_norms and not _takes(known, "weight_decay"):
        raise UserError(
            f"optimizer.decay_norms={decay_norms}: {options['_target_']} has no weight decay; give decay_norms=true"
        )
    depths = layer_depths(backbone) if layer_decay != 1 else {}
    without_decay = set() if decay_norms else _without_decay(backbone)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, weight in backbone.named_parameters():
        groups.setdefault((depths.get(name, 0), name in without_decay), []).append(weight)
    keys = sorted(groups)  # the classifier first
    parameters = [{"params": groups[key], **({"weight_decay": 0.0} if key[1] else {})} for key in keys]
    optimizer = instantiate(Optimizer, options, params=parameters)
    for group, (depth, _) in zip(optimizer.param_groups, keys, strict=True):
        if depth:
            group["lr"] *= layer_decay**depth
    return optimizer


def _without_decay(backbone: nn.Module) -> set[str]:
    """The parameters with one dimension, and the position embeddings and the like of timm's transformers."""
    named: Any = getattr(backbone, "no_weight_decay", set)
    return set(named()) | {name for name, weight in backbone.named_parameters() if weight.ndim <= 1}


class OneCycle(OneCycleLR):
    """PyTorch's OneCycleLR (Smith 2018), whose `max_lr` is each learning rate of the optimizer unless it is given.

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
    rates = [group["lr"] for group in optimizer.param_groups]
    for name in {"base_lr", "max_lr"} & options.keys() if len(set(rates)) > 1 else ():
        if isinstance(options[name], (int, float)):  # of the classifier; those of other layers keep their ratio to it
            options[name] = [options[name] * rate / rates[0] for rate in rates]
    try:
        return {"scheduler": instantiate(LRScheduler, options, optimizer=optimizer), "interval": interval}
    except ZeroDivisionError as error:
        raise UserError(f"{options['_target_']} cannot be made from the configuration: {error}") from error
