"""What a job of a sweep would come to, told from its settings: a job that finished before is not run again."""

import hashlib
import json
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alu_defects.data.catalog import data_hash
from alu_defects.data.datamodule import DefectData
from alu_defects.learning.run import Run

# where files lie and what the screen shows: nothing that a training comes to
ELSEWHERE = ("run_dir", "resume", "paths", "sweep")
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


def fingerprint(config: DictConfig) -> str:
    """A digest of the settings that decide what a training comes to, and of the code that reads them.

    Reports and documents may change between two jobs of a sweep; what trains and measures, and torch, may not.
    """
    digest = hashlib.sha256(json.dumps(settings(config), sort_keys=True).encode() + _code())
    if weights := OmegaConf.select(config, "model.weights"):
        file = Path(str(weights)).expanduser()
        digest.update(file.read_bytes() if file.is_file() else b"")  # training says that it is missing
    return digest.hexdigest()


@cache
def _code() -> bytes:
    """A digest of the code; taken once, since a process goes on with what it has imported."""
    package = Path(__file__).parents[1]
    files = [file for name in PACKAGES for file in sorted((package / name).rglob("*.py"))]
    digest = hashlib.sha256()
    for file in [*files, *(package / name for name in FILES)]:
        digest.update(file.read_bytes())
    digest.update(" ".join(version(name) for name in ("torch", "torchvision", "timm")).encode())
    return digest.digest()


def finished(config: DictConfig, data: DefectData) -> Run | None:
    """The newest finished run below `paths.runs` with these settings, this code and these pictures; None: no such run.

    The pictures are listed only where a run has the settings.
    """
    wanted, folder = fingerprint(config), Path(config.paths.runs)
    found = [Run(file.parent) for pattern in ("*/run.json", "*/*/run.json") for file in folder.glob(pattern)]
    alike = [run for run in found if run.status().get("status") == "finished"]
    alike = [run for run in alike if run.status().get("fingerprint") == wanted and run.best.exists()]
    if not alike:
        return None
    digest = data_hash(data.scan())
    alike = [run for run in alike if run.status()["data_hash"] == digest]
    return max(alike, key=lambda run: str(run.status()["ended"]), default=None)


def reuse(folder: Path, run: Run, overrides: list[str]) -> None:
    """Let a job's folder stand for a run that lies elsewhere; its run.json says where."""
    folder.mkdir(parents=True, exist_ok=True)
    where = os.path.relpath(run.folder.resolve(), folder.resolve())  # a tree of runs may be moved as a whole
    config = run.config()
    Run(folder).update(status="reused", run=where, overrides=overrides, model=config.model.name, seed=config.seed)
