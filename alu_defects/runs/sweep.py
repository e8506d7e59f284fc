"""What a job of a sweep would come to, told from its settings: a job that finished before is not run again."""
import ast
import hashlib
import json
import os
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from alu_defects.io import claim_folder
from alu_defects.config import plain
from alu_defects.data.catalog import data_hash
from alu_defects.errors import UserError
from alu_defects.runs.run import Run
from alu_defects.config import quote
if TYPE_CHECKING:  # torch takes seconds to import: a run that is resumed is looked for before
    from alu_defects.data.datamodule import DefectData


# where files lie and what the screen shows: nothing that a training comes to
NOT_IN_IDENTITY = ("hydra", "run_dir", "resume", "paths", "sweep", "logger")
DATA_NOT_IN_IDENTITY = ("root", "cache", "cache_dir", "num_workers", "progress")  # the images are compared by content
# what decides the outcome of a training: modules with all of ours that they import, modules alone, and packages
CODE_WITH_IMPORTS = ("alu_defects.training.trainer", "alu_defects.training.callbacks")
CODE_ALONE = ("alu_defects.train", "alu_defects.evaluation.predictions")
IDENTITY_PACKAGES = ("lightning", "numpy", "pillow", "timm", "torch", "torchmetrics", "torchvision")


class OwnFolder(Callback):
    """Gives a sweep a folder that no other sweep has, also if both start in the same second."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the folder before Hydra uses it, unless the user named it."""
        if OmegaConf.is_interpolation(config.hydra.sweep, "dir"):
            folder = str(claim_folder(Path(config.hydra.sweep.dir).expanduser()))
            config.hydra.sweep.dir = folder
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quote(folder)}")  # for the jobs


def identity_settings(config: DictConfig) -> dict[str, Any]:
    """The settings that decide what a training comes to."""
    found: dict[str, Any] = {str(key): plain(config[key]) for key in config if key not in NOT_IN_IDENTITY}
    found["data"] = {key: value for key, value in found.get("data", {}).items() if key not in DATA_NOT_IN_IDENTITY}
    found["trainer"] = {key: value for key, value in found.get("trainer", {}).items() if key != "enable_progress_bar"}
    shown = ("dashboard", "epoch_lines", "progress_bar")
    callbacks = {name: entry or {} for name, entry in found.get("callbacks", {}).items() if name not in shown}
    found["callbacks"] = {
        name: {key: value for key, value in entry.items() if key != "dirpath"} for name, entry in callbacks.items()
    }
    return found


def run_identity(config: DictConfig) -> dict[str, str]:
    """What tells in run.json what a training would come to: digests of its `identity_settings` and `code`, and `computes_on`.

    Reports and documents may change between two jobs of a sweep; what trains and measures, the libraries and the kind
    of device may not.

    Raises:
        UserError: there is no such backbone.
    """
    from alu_defects.training import trainer
    from alu_defects.models import registry

    digest = hashlib.sha256(json.dumps(identity_settings(config), sort_keys=True).encode())
    if weights := OmegaConf.select(config, "model.weights"):
        with suppress(UserError, FileNotFoundError):  # training says that it is missing
            digest.update(weights_file(str(weights)).read_bytes())
    return {
        "settings": digest.hexdigest(),
        "code": _code(registry.module_of(config.model.name)),
        "computes_on": trainer.computes_on(config.trainer.accelerator, config.trainer.precision),
    }


def weights_file(path: str | Path) -> Path:
    """The file that `model.weights` means: of a run folder that with the network of its best epoch.

    Raises:
        UserError: a folder that is no run, or whose run has not finished its first epoch.
    """
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

    Args:
        backbone: the module of the network, ours or another package's, of which all modules count.
    """
    files = {name: file for name in CODE_ALONE if (file := _file(name))}
    package = backbone.partition(".")[0]
    todo = [*CODE_WITH_IMPORTS, backbone]
    if package != "alu_defects":
        files |= {str(file): file for file in _files_of_package(package)}
        todo += [name for file in _files_of_package(package) for name in _imports(file)]
    while todo:
        name = todo.pop()
        if name not in files and (source := _file(name)):
            files[name] = source
            todo += _imports(source)
    digest = hashlib.sha256()
    if package != "alu_defects" and not _files_of_package(package):  # typed into Python: no other run has the same
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
    file = getattr(module, "__file__", None)
    return [Path(file)] if file else []


def _runs(config: DictConfig) -> list[tuple[Run, dict[str, Any]]]:
    """The runs below `paths.runs` and that in `run_dir`, each with its run.json, in the order of their start."""
    folder = Path(config.paths.runs)
    files = {file for pattern in ("*/run.json", "*/*/run.json") for file in folder.glob(pattern)}
    if (own := Path(config.run_dir, "run.json")).is_file():  # a command with a run_dir, typed again
        files.add(own)
    runs = [Run(file.parent) for file in files]
    return sorted(((run, run.status()) for run in runs), key=lambda found: str(found[1].get("started")))


def find_finished(config: DictConfig, data: "DefectData") -> Run | None:
    """The newest finished run below `paths.runs` with these settings, this code and these images; None: no such run.

    The images are listed only where a run has the settings.
    """
    wanted = {"status": "finished", **run_identity(config)}
    alike = [(run, status) for run, status in _runs(config) if wanted.items() <= status.items() and run.best.exists()]
    if not alike:
        return None
    if data.on_broken == "exclude":
        data.setup("fit")  # which images there are shows when they are decoded
    digest = data_hash(data.catalog)
    return next((run for run, status in reversed(alike) if status["data_hash"] == digest), None)


def find_unfinished(config: DictConfig) -> Run | None:
    """The newest run below `paths.runs` with these settings and root that was left unfinished; None: no such run."""
    wanted, root = run_identity(config)["settings"], config.data.get("root")
    left = [run for run, status in _runs(config) if status["status"] != "finished" and status.get("settings") == wanted]
    alike = (run for run in reversed(left) if run.config().data.root == root and not run.is_alive())
    return next(alike, None)


def point_to_run(folder: Path, run: Run, overrides: list[str]) -> None:
    """Let a job's folder stand for a run that lies elsewhere; its run.json says where."""
    if run.folder.resolve() == folder.resolve():  # a sweep whose folder was typed is typed again
        return
    folder.mkdir(parents=True, exist_ok=True)
    where = os.path.relpath(run.folder.resolve(), folder.resolve())  # a tree of runs may be moved as a whole
    config = run.config()
    Run(folder).update(status="reused", run=where, overrides=overrides, model=config.model.name, seed=config.seed)
