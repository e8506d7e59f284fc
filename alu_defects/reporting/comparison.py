"""Several runs → one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from alu_defects.errors import UserError
from alu_defects.learning.metrics import SUMMARY
from alu_defects.learning.run import Run

RECALL = "recall/"  # prefix of the columns with the recall of one class


def find(folders: Sequence[Path]) -> list[Run]:
    """The runs in the folders: each is a run folder, or holds run folders.

    Raises:
        UserError: a folder without runs.
    """
    runs: list[Run] = []
    for folder in folders:
        files = [folder / "run.json"] if (folder / "run.json").is_file() else sorted(folder.glob("*/run.json"))
        if not files:
            raise UserError(
                f"{folder} is not a run folder and holds none; give a sweep's folder or a list of run folders"
            )
        runs += [Run(file.parent) for file in files]
    return runs


def table(folders: Sequence[Path]) -> pd.DataFrame:
    """One row a run, whatever became of it: settings, status, test metrics and recall of each class."""
    runs = find(folders)
    given = [run.status().get("overrides", []) for run in runs]
    shared = set(given[0]).intersection(*given[1:])
    rows = [_row(run, " ".join(o for o in mine if o not in shared)) for run, mine in zip(runs, given, strict=True)]
    frame = pd.DataFrame(rows)
    return frame.sort_values("f1", ascending=False, ignore_index=True, na_position="last")


def _row(run: Run, difference: str) -> dict[str, Any]:
    config, metrics = run.config(), run.metrics()
    test = metrics.get("test", {})
    return {
        "run": run.folder.name,
        "difference": difference,  # what the command line gave for this run and not for all
        "model": config.model.name,
        "seed": config.seed,
        "status": run.status()["status"],
        **{name: test.get(name) for name in SUMMARY},
        "note": metrics.get("note", ""),
        **{name: metrics.get(name) for name in ("best_epoch", "epochs", "parameters", "seconds")},
        **{RECALL + name: values["recall"] for name, values in test.get("per_class", {}).items()},
    }
