"""metrics.csv: one row an epoch, also after a run was resumed."""

from pathlib import Path

import pandas as pd
import pytest

from alu_defects.training.history import History


def test_metrics_of_an_epoch_are_one_row_in_any_order(tmp_path: Path) -> None:
    history = History(tmp_path / "metrics.csv")
    history.log_metrics({"train/loss": 0.5}, 1)
    history.log_metrics({"val/loss": 0.9}, 0)
    history.log_metrics({"val/loss": 0.8}, 1)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table["epoch"].tolist() == [0, 1]
    assert table["val/loss"].tolist() == [0.9, 0.8]
    assert table["train/loss"][1] == 0.5
    assert table["train/loss"].isna().tolist() == [True, False]
    pd.testing.assert_frame_equal(table[history.table().columns], history.table())


def test_resumed_run_replaces_repeated_epochs(tmp_path: Path) -> None:
    first = History(tmp_path / "metrics.csv")
    for epoch in range(3):
        first.log_metrics({"val/loss": float(epoch), "val/f1": 0.123456789012345}, epoch)
    again = History(tmp_path / "metrics.csv")
    for epoch in (2, 3):
        again.log_metrics({"val/loss": 10.0 + epoch, "val/f1": 0.5}, epoch)
    table = History(tmp_path / "metrics.csv").table()
    assert table["epoch"].tolist() == [0, 1, 2, 3]
    assert table["val/loss"].tolist() == [0.0, 1.0, 12.0, 13.0]
    assert table["val/f1"].tolist() == pytest.approx([0.123456789012345] * 2 + [0.5] * 2, rel=1e-14)
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()[3].split(",")[0] == "2"  # not 2.0
