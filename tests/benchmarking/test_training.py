"""What a training step costs, on a few small images."""

import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from alu_defects.benchmarking import training
from alu_defects.benchmarking.measurement import format_value
from alu_defects.config import compose, model_options
from alu_defects.errors import UserError

FAST = ["what=train", "data=folder", "split=random", "trainer=cpu", "repeats=2", "seconds=0.01"]


def test_the_three_loops_are_measured_and_the_network_trains_in_all(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: set[bool] = set()
    forward = training.Classifier.forward

    def spy(self: training.Classifier, images: torch.Tensor) -> torch.Tensor:
        modes.add(all(module.training for module in self.backbone.modules()))
        return forward(self, images)

    monkeypatch.setattr(training.Classifier, "forward", spy)
    words = [*FAST, f"data.root={photographs}", "data.batch_size=4", "image_sizes=[32]"]
    (table,) = training.measure(compose("benchmark", words), {"shufflenet": model_options("shufflenet")})
    (row,) = table.rows
    assert (row["network"], row["precision"]) == ("shufflenet", "32-true")
    assert row["parameters (M)"] == pytest.approx(1.256679)  # three classes
    for kind in training.LOOPS:
        assert row[f"{kind} (img/s)"].low > 0
    assert row["memory (MB)"] > 5  # weights, gradients and two moments of 1.26 million parameters take 20
    for ratio in ("1 / eager", "2 / 1", "3 / 2"):
        assert row[ratio].low <= row[ratio].median <= row[ratio].high
    assert 0 < row["share of the matrix peak"] < 1
    assert modes == {True}
    assert len(row) == 13  # the widest table
    console = Console(width=80, file=io.StringIO())
    console.print(table.to_rich(console.width))
    for name, value in row.items():
        line = rf"{re.escape(name)} +{re.escape(format_value(value))}"
        assert name == "network" or re.search(line, console.file.getvalue()), name


def test_an_image_too_small_for_a_network_is_refused(photographs: Path) -> None:
    words = [*FAST, f"data.root={photographs}", "image_sizes=[16]", "data.batch_size=4"]
    with pytest.raises(UserError, match="too small for shufflenet; give 32 or more"):
        training.measure(compose("benchmark", words), {"shufflenet": model_options("shufflenet")})


def test_a_single_batch_cannot_be_timed(photographs: Path) -> None:
    words = [*FAST, f"data.root={photographs}", "image_sizes=[32]", "data.batch_size=20"]
    with pytest.raises(UserError, match=r"data\.batch_size=20 leaves fewer than two batches"):
        training.measure(compose("benchmark", words), {"shufflenet": model_options("shufflenet")})


def test_the_matrix_peak_is_that_of_this_machine() -> None:
    assert 1e8 < training.matrix_peak(torch.device("cpu"), "32-true") < 1e13
