"""Jobs of a sweep that need not run because the same run has finished already, or that continue an unfinished one."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from alu_defects.data.catalog import data_hash
from alu_defects.runs.identity import run_identity
from alu_defects.runs.run import Run

if TYPE_CHECKING:  # torch takes seconds to import: a run that is resumed is looked for before
    from alu_defects.data.datamodule import DefectData


def _runs(config: DictConfig) -> list[tuple[Run, dict[str, Any]]]:
    """The runs below `paths.runs` and that in `run_dir`, each with its run.json, in the order of their start."""
    folder, own = Path(config.paths.runs), Path(config.run_dir, "run.json")
    files = {*folder.glob("*/run.json"), *folder.glob("*/*/run.json")}
    runs = [Run(file.parent) for file in files | ({own} if own.is_file() else set())]  # a run_dir may be typed again
    return sorted(((run, run.status()) for run in runs), key=lambda found: str(found[1].get("started")))


def find_finished(config: DictConfig, data: "DefectData") -> Run | None:
    """The newest finished run below `paths.runs` with these settings, this code and these images, or None.

    The images are listed only where a run has the settings.
    """
    wanted = {"status": "finished", **run_identity(config)}
    alike = [(run, status) for run, status in _runs(config) if wanted.items() <= status.items() and run.best.exists()]
    if not alike:
        return None
    if data.on_broken == "exclude":
        data.prepare_data()  # which images there are shows when they are decoded
    digest = data_hash(data.catalog)
    return next((run for run, status in reversed(alike) if status["data_hash"] == digest), None)


def find_unfinished(config: DictConfig) -> Run | None:
    """The newest unfinished run below `paths.runs` with these settings and images, or None."""
    wanted, where = run_identity(config)["settings"], [config.data.get(key) for key in ("root", "table")]
    left = [run for run, status in _runs(config) if status["status"] != "finished" and status.get("settings") == wanted]
    for run in reversed(left):
        data = run.config().data
        if [data.get(key) for key in ("root", "table")] == where and not run.is_alive():
            return run
    return None


def point_to_run(folder: Path, run: Run, overrides: list[str]) -> None:
    """Let a job's folder stand for a run that lies elsewhere; its run.json says where."""
    if run.folder.resolve() == folder.resolve():  # a sweep whose folder was typed is typed again
        if run.status().get("error"):  # of a job that was refused since
            run.update(error=None)
        return
    folder.mkdir(parents=True, exist_ok=True)
    where = os.path.relpath(run.folder.resolve(), folder.resolve())  # a tree of runs may be moved as a whole
    config = run.config()
    Run(folder).update(status="reused", run=where, overrides=overrides, model=config.model.name, seed=config.seed)
