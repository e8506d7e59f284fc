"""The optimizer that a configuration names."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from alu_defects.config import find_class, instantiate
from alu_defects.errors import UserError, did_you_mean


def create(options: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
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
