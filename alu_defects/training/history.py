"""metrics.csv: one row for each epoch."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from alu_defects import io
from alu_defects.training.metrics import LOGGED_SPLITS

PREFIXES = tuple(f"{split}/" for split in LOGGED_SPLITS)  # a LearningRateMonitor, say, counts batches, not epochs


class History(Logger):
    """Collects what is logged during the training into one table, one row for each epoch.

    A resumed run continues the file: an epoch that is logged again replaces its row.
    """

    name, version = "history", ""  # parts of Lightning's logger interface

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, float]] = {}
        if path.exists():
            table = pd.read_csv(path)
            self.rows = {int(row["epoch"]): row for row in table.to_dict("records")}  # type: ignore[misc]

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | argparse.Namespace, *args: Any, **kwargs: Any) -> None:
        """Hyper-parameters are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics to the row of their epoch, which is their step, and write the table."""
        values = {key: float(value) for key, value in metrics.items() if key.startswith(PREFIXES)}
        if not values:
            return
        assert step is not None
        self.rows.setdefault(int(step), {"epoch": int(step)}).update(values)
        with io.atomic_write(self.path) as file:
            self.table().to_csv(file, index=False)

    def complete(self, epoch: int, logged: Mapping[str, float], others: Sequence[Logger]) -> None:
        """Log `logged`, which was in the checkpoint of `epoch`, where a run was killed before it did so itself."""
        row = pd.Series(self.rows.get(epoch, {})).dropna()  # read from a table, it has every column
        missing = {key: value for key, value in logged.items() if key.startswith(PREFIXES) and key not in row}
        for logger in (*others, self) if missing else ():
            logger.log_metrics(missing, step=epoch)

    def table(self) -> pd.DataFrame:
        """The rows in the order of their epochs."""
        return pd.DataFrame([self.rows[epoch] for epoch in sorted(self.rows)])
