"""Which runs are the same: settings, code, libraries, kind of device and starting weights, as digests in run.json."""

import ast
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from alu_defects.config import backbone_options, plain
from alu_defects.errors import UserError
from alu_defects.runs.run import Run

if TYPE_CHECKING:  # it imports torch, which takes seconds
    from alu_defects.models.pretrained import Published

# where files lie, what the screen shows, and how many cores compute, which changes no result but by rounding
NOT_IN_IDENTITY = ("hydra", "run_dir", "resume", "paths", "sweep", "operating", "logger")
IGNORED = {
    # the images are compared by content
    "data": ("root", "table", "cache", "cache_dir", "num_workers", "progress", "remember_hashes"),
    "trainer": ("enable_progress_bar", "threads"),
    "callbacks": ("dashboard", "epoch_lines", "learning_check", "progress_bar"),
}
# what decides the result of a run: modules with all of ours that they import, modules alone, and packages
CODE_WITH_IMPORTS = tuple(f"alu_defects.training.{name}" for name in ("trainer", "accumulation", "callbacks"))
CODE_ALONE = ("alu_defects.train", "alu_defects.evaluation.predictions")
IDENTITY_PACKAGES = ("lightning", "numpy", "pillow", "timm", "torch", "torchmetrics", "torchvision")


def identity_settings(config: DictConfig) -> dict[str, Any]:
    """The settings that decide the result of a run."""
    found: dict[str, Any] = {str(key): plain(config[key]) for key in config if key not in NOT_IN_IDENTITY}
    for group, ignored in IGNORED.items():
        found[group] = {key: value for key, value in (found.get(group) or {}).items() if key not in ignored}
    for name, entry in found["callbacks"].items():
        found["callbacks"][name] = {key: value for key, value in (entry or {}).items() if key != "dirpath"}
    return found


def run_identity(config: DictConfig) -> dict[str, str]:
    """What in run.json tells runs apart: digests of `identity_settings` and of the code, and the kind of device."""
    from alu_defects.models import registry
    from alu_defects.models.pretrained import shipped_file
    from alu_defects.training import trainer

    digest = hashlib.sha256(json.dumps(identity_settings(config), sort_keys=True).encode())
    if weights := OmegaConf.select(config, "model.weights"):
        with suppress(UserError, FileNotFoundError):  # training says that it is missing
            digest.update(weights_file(str(weights)).read_bytes())
    elif OmegaConf.select(config, "model.pretrained") == "surfaces":
        digest.update(shipped_file(published_weights(plain(config.model)).network).read_bytes())
    return {
        "settings": digest.hexdigest(),
        "code": _code(registry.module_of(config.model.name)),
        "computes_on": trainer.computes_on(config.trainer.accelerator, config.trainer.precision),
    }


def published_weights(model: Mapping[str, Any]) -> "Published":
    """What is published for the network of the group `model`."""
    from alu_defects.models import registry

    return registry.published_weights(**backbone_options(model))


def weights_file(path: str | Path) -> Path:
    """The file that `model.weights` means: of a run folder the network of its best epoch; without one a `UserError`."""
    path = Path(path).expanduser()
    if not path.is_dir():
        return path
    try:
        run = Run.existing(path)
    except UserError as error:
        raise UserError(f"model.weights={path}: {error}") from error
    for file in (run.weights, run.best):  # the first is written when the training has ended
        if file.is_file():
            return file
    raise UserError(f"model.weights={path}: the run has not finished its first epoch; there is no {run.best}")


@cache
def _code(backbone: str) -> str:
    """A digest of the code; taken once, since a process continues with what it has imported.

    All modules of the package of `backbone` count, if it is not ours.
    """
    package = backbone.partition(".")[0]
    theirs = [] if package == "alu_defects" else _files_of_package(package)
    files = {name: file for name in CODE_ALONE if (file := _file(name))} | {str(file): file for file in theirs}
    todo = [*CODE_WITH_IMPORTS, backbone, *(name for file in theirs for name in _imports(file))]
    while todo:
        name = todo.pop()
        if name not in files and (source := _file(name)):
            files[name] = source
            todo += _imports(source)
    digest = hashlib.sha256()
    if package != "alu_defects" and not theirs:  # typed into Python: no other run has the same
        digest.update(os.urandom(32))
    for name in sorted(files):
        digest.update(files[name].read_bytes())
    digest.update(" ".join(version(name) for name in IDENTITY_PACKAGES).encode())
    return digest.hexdigest()


def _file(module: str) -> Path | None:
    """The source of a module of ours; None if it is none."""
    package, *names = module.split(".")
    path = Path(__file__).parents[1].joinpath(*names)
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if package == "alu_defects" and file.is_file()), None)


def _imports(file: Path) -> list[str]:
    """What a file imports, anywhere in it, as names of modules or of what is in them."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def _files_of_package(name: str) -> list[Path]:
    """The sources of a package of somebody else."""
    module = sys.modules[name]
    if folders := getattr(module, "__path__", None):
        return [file for folder in folders for file in sorted(Path(folder).rglob("*.py"))]
    return [Path(file)] if (file := getattr(module, "__file__", None)) else []
