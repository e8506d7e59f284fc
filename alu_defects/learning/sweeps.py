"""What a job of a sweep would come to, told from its settings: a job that finished before is not run again."""

import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from alu_defects.data.catalog import data_hash
from alu_defects.errors import UserError
from alu_defects.learning.run import Run

if TYPE_CHECKING:  # torch takes seconds to import: a run that is resumed is looked for before
    from alu_defects.data.datamodule import DefectData

# where files lie and what the screen shows: nothing that a training comes to
ELSEWHERE = ("hydra", "run_dir", "resume", "paths", "sweep")
DATA_ELSEWHERE = ("root", "cache", "cache_dir", "num_workers", "progress")  # the pictures are compared by content
PACKAGES = ("data", "models", "learning")  # the code of ours that decides what a training comes to
FILES = ("train.py", "config.py", "taxonomy.py", "reporting/evaluation.py")


def settings(config: DictConfig) -> dict[str, Any]:
    """The settings that decide what a training comes to."""
    found: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    found = {key: value for key, value in found.items() if key not in ELSEWHERE}
    found["data"] = {key: value for key, value in found.get("data", {}).items() if key not in DATA_ELSEWHERE}
    found["trainer"] = {key: value for key, value in found.get("trainer", {}).items() if key != "enable_progress_bar"}
    shown = ("dashboard", "epoch_lines", "progress_bar")
    found["callbacks"] = {key: value for key, value in found.get("callbacks", {}).items() if key not in shown}
    return found


def identity(config: DictConfig) -> dict[str, str]:
    """What tells in run.json what a training would come to: digests of its `settings` and of the `code`.

    Reports and documents may change between two jobs of a sweep; what trains and measures, and torch, may not.
    """
    digest = hashlib.sha256(json.dumps(settings(config), sort_keys=True).encode())
    if weights := OmegaConf.select(config, "model.weights"):
        with suppress(UserError, FileNotFoundError):  # training says that it is missing
            digest.update(weights_file(str(weights)).read_bytes())
    return {"settings": digest.hexdigest(), "code": _code()}


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
def _code() -> str:
    """A digest of the code; taken once, since a process goes on with what it has imported."""
    package = Path(__file__).parents[1]
    files = [file for name in PACKAGES for file in sorted((package / name).rglob("*.py"))]
    digest = hashlib.sha256()
    for file in [*files, *(package / name for name in FILES)]:
        digest.update(file.read_bytes())
    digest.update(" ".join(version(name) for name in ("torch", "torchvision", "timm")).encode())
    return digest.hexdigest()


def _runs(config: DictConfig) -> list[tuple[Run, dict[str, Any]]]:
    """The runs below `paths.runs` and that in `run_dir`, each with its run.json, in the order of their start."""
    folder = Path(config.paths.runs)
    files = {file for pattern in ("*/run.json", "*/*/run.json") for file in folder.glob(pattern)}
    if (own := Path(config.run_dir, "run.json")).is_file():  # a command with a run_dir, typed again
        files.add(own)
    runs = [Run(file.parent) for file in files]
    return sorted(((run, run.status()) for run in runs), key=lambda found: str(found[1].get("started")))


def finished(config: DictConfig, data: "DefectData") -> Run | None:
    """The newest finished run below `paths.runs` with these settings, this code and these pictures; None: no such run.

    The pictures are listed only where a run has the settings.
    """
    wanted = {"status": "finished", **identity(config)}
    alike = [(run, status) for run, status in _runs(config) if wanted.items() <= status.items() and run.best.exists()]
    if not alike:
        return None
    if data.on_broken == "exclude":
        data.setup("fit")  # which pictures there are shows when they are decoded
    digest = data_hash(data.scan())
    return next((run for run, status in reversed(alike) if status["data_hash"] == digest), None)


def unfinished(config: DictConfig) -> Run | None:
    """The newest run below `paths.runs` with these settings and root that was left unfinished; None: no such run."""
    wanted, root = identity(config)["settings"], config.data.get("root")
    left = [run for run, status in _runs(config) if status["status"] != "finished" and status.get("settings") == wanted]
    alike = (run for run in reversed(left) if run.config().data.root == root and not run.is_alive())
    return next(alike, None)


def reuse(folder: Path, run: Run, overrides: list[str]) -> None:
    """Let a job's folder stand for a run that lies elsewhere; its run.json says where."""
    folder.mkdir(parents=True, exist_ok=True)
    where = os.path.relpath(run.folder.resolve(), folder.resolve())  # a tree of runs may be moved as a whole
    config = run.config()
    Run(folder).update(status="reused", run=where, overrides=overrides, model=config.model.name, seed=config.seed)
