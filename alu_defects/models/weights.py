"""State dicts from local files."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from alu_defects.errors import UserError
from alu_defects.models.attention import SCSE, ChannelSE, SpatialSE

_log = logging.getLogger(__name__)

_SHOWN = 8  # keys listed in an error


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into a backbone; only its attention and its classifier may be new.

    A classifier of another number of classes is left as it is, and so is attention that the file does not have; both
    are logged. A file that does not fit leaves the model untouched.

    Args:
        model: A backbone, see `Backbone`.
        path: .safetensors, or .pth / .pt with a state dict, bare or under the key "state_dict".

    Raises:
        UserError: The file is missing, cannot be read, or its keys or shapes differ elsewhere.
    """
    path = Path(path)
    state = _read(path)
    own = model.state_dict()
    classifier = _keys_below(model, [*own, *state], _classifiers(model))
    attention = _keys_below(model, own, [m for m in model.modules() if isinstance(m, (ChannelSE, SpatialSE, SCSE))])
    if any(key not in state or key not in own or state[key].shape != own[key].shape for key in classifier):
        state = {key: value for key, value in state.items() if key not in classifier}
        _log.info("%s: its classifier does not fit, the new one stays untrained", path)
    missing = [
        key
        for key in own
        if key not in state and key not in classifier | attention and not key.endswith(".num_batches_tracked")
    ]  # old files do not count batches, and nothing here depends on the count
    unexpected = [key for key in state if key not in own]
    reshaped = [
        f"{key} {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if problems:
        raise UserError(f"weights={path} is not a file of this backbone: {'; '.join(problems)}.")
    if new := sorted(attention - state.keys()):
        _log.info("%s has no attention: %d parameters are new", path, len(new))
    model.load_state_dict(state, strict=False)


def _classifiers(model: nn.Module) -> list[nn.Module]:
    """Return the classifier, or the two of timm's distilled transformers."""
    found: Any = model.get_classifier()  # type: ignore[operator]  # a method of every backbone
    return list(found) if isinstance(found, tuple) else [found]


def _keys_below(model: nn.Module, keys: Iterable[str], modules: list[nn.Module]) -> set[str]:
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if any(module is m for m in modules))
    return {key for key in keys if key.startswith(prefixes)}


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"weights={path}: there is no such file.")
    readers: dict[str, Callable[[Path], Any]] = {".safetensors": load_file, ".pth": _read_pickle, ".pt": _read_pickle}
    if path.suffix not in readers:
        raise UserError(f"weights={path}: the name must end in {', '.join(readers)}.")
    try:
        state = readers[path.suffix](path)
    except Exception as error:  # broken files raise whatever the byte that broke them leads to
        # the first line only: torch's message goes on to recommend weights_only=False, which would run the file's code
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise UserError(f"weights={path} cannot be read as tensors alone ({reason}); use an intact file.") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise UserError(f"weights={path} does not hold a state dict (names and tensors).")
    return state


def _read_pickle(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
