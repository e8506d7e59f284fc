"""State dicts from local files."""

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from alu_defects.errors import UserError
from alu_defects.models.attention import SCSE, ChannelSE, SpatialSE
from alu_defects.models.backbone import classifiers

_SHOWN = 8  # keys listed in an error, or names of classes
_OURS = {"model", "classes"}  # in the metadata of files of alu_defects.train


def load_weights(model: nn.Module, path: str | Path, classes: Sequence[str] | None = None) -> str:
    """Load a state dict into a backbone, and say what was loaded and what is new.

    Only its attention and its classifier may stay untrained. The classifier stays new where that of the file is for
    other classes, or, if the file does not name its classes, for another number of them. A file that does not fit
    leaves the model untouched.

    Args:
        model: A backbone, see `Backbone`.
        path: .safetensors, or .pth / .pt / .ckpt with a state dict, bare or under "state_dict"; also those of a run.
        classes: Their names in the order of the model's outputs; None: not known, only their number is compared.

    Raises:
        UserError: The file is missing, cannot be read, or its keys or shapes differ elsewhere.
    """
    path = Path(path)
    state, known = read_weights(path)
    own = model.state_dict()
    rows = _per_class(model)
    classifier = _keys_below(model, [*own, *state], classifiers(model)) | rows
    attention = _keys_below(model, own, [m for m in model.modules() if isinstance(m, (ChannelSE, SpatialSE, SCSE))])
    fits = all(key in state and key in own and state[key].shape == own[key].shape for key in classifier)
    if known and classes and set(known) != set(classes):
        fits = False
        note = f"its classifier is for other classes ({_shortened(known)}, not {_shortened(classes)})"
    elif not fits:
        note = "its classifier does not fit"
    elif known and classes and known != list(classes):
        order = [known.index(name) for name in classes]
        state |= {key: state[key][order] for key in rows}
        note = "its classifier was loaded, with its outputs in the order of these classes"
    else:
        note = "its classifier was loaded" + ("" if known else ", although the file does not say for which classes")
    if not fits:
        state = {key: value for key, value in state.items() if key not in classifier}
        note += ", the new one stays untrained"
    new = classifier | attention
    missing = [key for key in own if key not in new | state.keys() and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    reshaped = [f"{key} {tuple(state[key].shape)}, not {tuple(own[key].shape)}" for key in reshaped]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    problems = [f"{len(keys)} {what}: {_shortened(keys)}" for what, keys in found.items() if keys]
    if problems:
        raise UserError(f"weights={path} is not a file of this backbone: {'; '.join(problems)}.")
    if added := attention - state.keys():
        note += f"; it has no attention, {len(added)} parameters are new"
    model.load_state_dict(state, strict=False)
    return f"{len(state.keys() & own.keys())} of {len(own)} tensors were loaded; {note}"


def _per_class(model: nn.Module) -> set[str]:
    """Return the names of the tensors with a row for each class, whose shape depends on the number of classes."""
    empty = {id(t): torch.empty_like(t, device="meta") for t in (*model.parameters(), *model.buffers())}
    other = copy.deepcopy(model, empty)  # without the memory of a second network
    with torch.device("meta"):
        other.reset_classifier(model.num_classes + 1)  # type: ignore[operator]  # a method of every backbone
    own = model.state_dict()
    return {key for key, value in other.state_dict().items() if key not in own or value.shape != own[key].shape}


def _shortened(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"


def _keys_below(model: nn.Module, keys: Iterable[str], modules: list[nn.Module]) -> set[str]:
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if any(module is m for m in modules))
    return {key for key in keys if key.startswith(prefixes)}


def read_weights(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """The tensors in a file, and for which classes they are, which only files of alu_defects say.

    Raises:
        UserError: there is no such file, or it is not one of tensors alone.
    """
    if not path.is_file():
        raise UserError(f"weights={path}: there is no such file.")
    if path.suffix not in (".safetensors", ".pth", ".pt", ".ckpt"):
        raise UserError(f"weights={path}: the name must end in .safetensors, .pth, .pt, .ckpt.")
    try:
        state, classes = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except Exception as error:  # broken files raise almost anything
        # the first line only: torch then recommends weights_only=False, which would run code in the file
        reason = f"{type(error).__name__}: {''.join(str(error).strip().splitlines()[:1])}"
        raise UserError(f"weights={path} cannot be read as tensors alone ({reason}); use an intact file.") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise UserError(f"weights={path} does not hold a state dict (names and tensors).")
    return state, classes


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    return state, json.loads(about["classes"]) if about.keys() >= _OURS else None


def _read_pickle(path: Path) -> tuple[Any, list[str] | None]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        return content, None
    inside, about = content.get("state_dict"), content.get("hyper_parameters")
    state = inside if isinstance(inside, dict) else content
    if not (isinstance(about, dict) and about.keys() >= _OURS):
        return state, None
    prefix = "backbone."  # of the LightningModule
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, list(about["classes"])
