"""Run folders and sweeps → jobs: what was to be trained, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from alu_defects.config import flat
from alu_defects.errors import UserError
from alu_defects.runs.identity import identity_settings
from alu_defects.runs.run import Run

# overrides that tell runs of one model apart, or that are said elsewhere
_NOT_IN_NAME = (
    "model=",
    "model.name=",
    "seed=",
    "split.fold=",
    "sweep=",
    "sweep.",
    "resume=",
    "run_dir=",
    "paths.",
    "logger=",
    "trainer.threads=",
    "trainer.enable_progress_bar=",
)

PREDICTIONS_FILE = "predictions.csv"
PROBABILITY_PREFIX = "probability_"  # of the columns with the probability of one class


@dataclass(frozen=True)
class Job:
    """A job of a sweep, or a run by itself.

    `run` has the results, perhaps in another sweep's folder. `status` is finished, failed, running or interrupted; gone
    if the run that the job stood for was removed. `overrides` are what the command line gave.
    """

    name: str
    overrides: list[str]
    run: Run
    status: str
    error: str = ""

    @property
    def model(self) -> str:
        """The network's name."""
        return str(self._what("model.name", "model"))

    @property
    def seed(self) -> Any:
        """The seed of the training; of a job that failed before it became a run whatever was given."""
        return self._what("seed", "seed")

    @property
    def ended(self) -> str:
        """When, as ISO 8601."""
        return str(self.run.status().get("ended", ""))

    def _what(self, key: str, noted: str) -> Any:
        """A setting, or what was noted of a job that failed before it became a run."""
        known = self.run.config_file.exists()
        return OmegaConf.select(self.run.config(), key) if known else self.run.status().get(noted, "?")

    @cached_property
    def settings(self) -> dict[str, Any] | None:
        """Settings that decide its outcome but seed and fold, as `optimizer.lr`, and which images there were.

        None for a job that failed before it became a run.
        """
        if not self.run.config_file.exists():
            return None
        config = self.run.config()
        found = flat(OmegaConf.create(identity_settings(config)))
        apart = ("seed", "split.fold")
        settings = {k: v for k, v in found.items() if v is not None and not isinstance(v, dict) and k not in apart}
        if config.split.name != "kfold":  # there the fold is in it
            settings["images"] = str(self.run.status().get("data_hash", ""))[:8]
        return settings

    @property
    def words(self) -> list[str]:
        """What the command line gave, without what tells runs of one model apart."""
        return [word for word in self.overrides if not word.startswith(_NOT_IN_NAME)]

    def predictions(self, split: str = "test") -> pd.DataFrame | None:
        """One row an image, by its content hash: path, session, label, prediction, probabilities; None: not written."""
        folder = self.run.folder if split == "test" else self.run.evaluation(split)
        if not (folder / PREDICTIONS_FILE).is_file():
            return None
        images = self.run.catalog().set_index("path")[["sha256", "session"]]
        return read_predictions(folder).join(images, on="path").set_index("sha256").sort_index()


def read_predictions(folder: Path) -> pd.DataFrame:
    """The predictions in the folder of a run or of an evaluation."""
    text = dict.fromkeys(("path", "label", "prediction"), str)
    table = pd.read_csv(folder / PREDICTIONS_FILE, dtype=text, keep_default_na=False, encoding_errors="surrogateescape")
    numbers = [str(name) for name in table if str(name).startswith(PROBABILITY_PREFIX)]
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")  # a network that diverged has none
    return table


def find_jobs(folders: Sequence[Path]) -> list[Job]:
    """The jobs in the folders: each is a run folder, or holds run folders; else a `UserError` is raised."""
    files: list[Path] = []
    for folder in folders:
        found = list(folder.glob("run.json")) or sorted(folder.glob("*/run.json"))
        if not found:
            raise UserError(
                f"{folder} is not a run folder and holds none; give a sweep's folder or a list of run folders"
            )
        files += found
    return [_job(file.parent) for file in files]


def _job(folder: Path) -> Job:
    given = Run(folder).status()
    overrides, run = given.get("overrides", []), Run(folder / given.get("run", "."))
    if not run.status_file.is_file():
        return Job(folder.name, overrides, Run(folder), "gone", f"it stood for {run.folder}; run the sweep again")
    status = run.status()
    return Job(folder.name, overrides, run, status["status"], status.get("error") or "")
