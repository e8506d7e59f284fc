"""Run folders and sweeps → jobs: what was to be trained, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from alu_defects.errors import UserError
from alu_defects.learning.run import Run
from alu_defects.reporting.evaluation import read_predictions


@dataclass(frozen=True)
class Job:
    """A job of a sweep, or a run by itself.

    Attributes:
        name: its folder's.
        overrides: what the command line gave.
        run: with the results, perhaps in another sweep's folder.
        status: finished, failed, running or interrupted.
        error: why it failed.
    """

    name: str
    overrides: list[str]
    run: Run
    status: str
    error: str = ""

    @property
    def model(self) -> str:
        """The network's name."""
        if self.run.config_file.exists():
            return str(self.run.config().model.name)
        given = [word.split("=", 1)[1] for word in self.overrides if word.startswith(("model=", "model.name="))]
        return given[-1] if given else "?"  # it failed before it became a run

    @property
    def seed(self) -> int:
        """The training's."""
        if self.run.config_file.exists():
            return int(self.run.config().seed)
        given = [int(word.removeprefix("seed=")) for word in self.overrides if word.startswith("seed=")]
        return given[-1] if given else 0

    def predictions(self, split: str = "test") -> pd.DataFrame | None:
        """One row a picture, by its content hash: path, session, label, prediction and probabilities.

        None where the run did not write them.
        """
        folder = self.run.folder if split == "test" else self.run.evaluation(split)
        if not (folder / "predictions.csv").is_file():
            return None
        pictures = self.run.catalog().set_index("path")[["sha256", "session"]]
        return read_predictions(folder).join(pictures, on="path").set_index("sha256").sort_index()


def find(folders: Sequence[Path]) -> list[Job]:
    """The jobs in the folders: each is a run folder, or holds run folders.

    Raises:
        UserError: a folder without runs, or one that stands for a run that is gone.
    """
    files: list[Path] = []
    for folder in folders:
        found = [folder / "run.json"] if (folder / "run.json").is_file() else sorted(folder.glob("*/run.json"))
        if not found:
            raise UserError(
                f"{folder} is not a run folder and holds none; give a sweep's folder or a list of run folders"
            )
        files += found
    return [_job(file.parent) for file in files]


def _job(folder: Path) -> Job:
    given = Run(folder).status()
    run = Run(folder / given["run"]) if "run" in given else Run(folder)
    if not run.status_file.is_file():
        raise UserError(f"{folder} stands for the run {run.folder}, which is gone; run the sweep again")
    status = run.status()
    return Job(folder.name, given.get("overrides", []), run, status["status"], status.get("error") or "")
