"""State dicts from local files."""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from alu_defects.errors import UserError
from alu_defects.models.attention import SCSE, ChannelSE, SpatialSE
from alu_defects.models.backbone import classifiers

_SHOWN = 8  # names of classes in an error
_SHOWN_KEYS = 3
_OURS = {"model", "classes"}  # in the metadata of files of alu_defects.train


def load_weights(
    model: nn.Module,
    path: str | Path,
    classes: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Load a state dict into a backbone, and say what was loaded and what is new.

    Only its attention and its classifier may stay untrained. The classifier stays new where that of the file is for
    other classes, or, if the file does not name its classes, for another number of them. A file that does not fit
    leaves the model untouched.

    Args:
        model: A backbone, see `Backbone`.
        path: .safetensors, or .pth / .pt / .ckpt with a state dict, bare or under "state_dict"; also those of a run.
        classes: Their names in the order of the model's outputs; None: not known, only their number is compared.
        options: What the backbone was created with, to say in which of them a file of a run differs.

    Raises:
        UserError: The file is missing, cannot be read, or its keys or shapes differ elsewhere.
    """
    path = Path(path)
    state, about = read_weights(path)
    known = list(about["classes"]) if about else None
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
        note += ", the new one is trained from scratch"
    new = classifier | attention
    missing = [key for key in own if key not in new | state.keys() and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    reshaped = [f"{key} {tuple(state[key].shape)}, not {tuple(own[key].shape)}" for key in reshaped]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    problems = [f"{len(keys)} {what}: {_shortened(keys, _SHOWN_KEYS)}" for what, keys in found.items() if keys]
    if problems:
        differ = _differing_options(about.get("model", {}), options or {})
        hint = f" The run has {' '.join(differ)}; give that." if differ else ""
        raise UserError(f"model.weights={path} is not a file of this network: {'; '.join(problems)}.{hint}")
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


def _shortened(names: Sequence[str], most: int = _SHOWN) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _differing_options(run: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """The words that give a network what a run has and it has not, where that changes its tensors."""
    name = run.get("name", own.get("name"))
    if name != own.get("name"):
        return [f"model=timm model.name={name}" if name.startswith("timm/") else f"model={name}"]
    same = {"name", "pretrained", "weights", "drop_rate", "attention_fusion"}
    if run.get("attention", "none") == "none":  # attention is new where a file has none
        same |= {key for key in run if key.startswith("attention")}
    words = {key: value for key, value in run.items() if key in own.keys() - same and own[key] != value}
    return [f"model.{key}={'null' if value is None else value}" for key, value in words.items()]


def _keys_below(model: nn.Module, keys: Iterable[str], modules: list[nn.Module]) -> set[str]:
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if any(module is m for m in modules))
    return {key for key in keys if key.startswith(prefixes)}


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors in a file, and `model` and `classes`, the options of the network and for what; empty if not of a run.

    Raises:
        UserError: there is no such file, or it is not one of tensors alone.
    """
    if not path.is_file():
        raise UserError(f"model.weights={path}: there is no such file.")
    if path.suffix not in (".safetensors", ".pth", ".pt", ".ckpt"):
        raise UserError(f"model.weights={path}: the name must end in .safetensors, .pth, .pt, .ckpt.")
    try:
        state, about = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except Exception as error:  # broken files raise almost anything
        # the first line only: torch then recommends weights_only=False, which would run code in the file
        reason = f"{type(error).__name__}: {''.join(str(error).strip().splitlines()[:1])}"
        raise UserError(f"{path} cannot be read as tensors alone ({reason}); use an intact file.") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise UserError(f"{path} does not hold a state dict (names and tensors).")
    return state, about


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    return state, {key: json.loads(about[key]) for key in _OURS} if about.keys() >= _OURS else {}


def _read_pickle(path: Path) -> tuple[Any, dict[str, Any]]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        return content, {}
    inside, about = content.get("state_dict"), content.get("hyper_parameters")
    state = inside if isinstance(inside, dict) else content
    if not (isinstance(about, dict) and about.keys() >= _OURS):
        return state, {}
    prefix = "backbone."  # of the LightningModule
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, about
