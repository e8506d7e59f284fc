"""Learning rates at the steps that matter."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from alu_defects.config import compose, plain
from alu_defects.errors import UserError
from alu_defects.train import train
from alu_defects.training import optimization


def options_of(*words: str) -> dict[str, Any]:
    """The group `scheduler` that a command line makes."""
    options: dict[str, Any] = plain(compose("train", words).scheduler)
    return options


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0, momentum=0.9)


def rates(*words: str, total_steps: int = 100, epochs: int = 10) -> list[float]:
    """The learning rate of each step, and the one after the last."""
    optimizer = sgd()
    made = optimization.create_scheduler(options_of(*words), optimizer, total_steps, epochs)
    result = []
    for step in range(1, total_steps + 1):
        result.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if made["interval"] == "step" or step % (total_steps // epochs) == 0:
            made["scheduler"].step()  # type: ignore[call-arg]
    return [*result, float(optimizer.param_groups[0]["lr"])]


def test_none_is_constant() -> None:
    assert set(rates("scheduler=none")) == {2.0}


def test_step_multiplies_at_the_first_batch_of_an_epoch() -> None:
    values = rates("scheduler=step", "scheduler.step_size=4")
    assert values[:40] == [2.0] * 40
    assert values[40:80] == pytest.approx([0.2] * 40)
    assert values[80:] == pytest.approx([0.02] * 21)


def test_cosine_rises_linearly_then_falls_to_the_fraction() -> None:
    values = rates("scheduler=cosine", "scheduler.final_fraction=0.1")
    assert values[:20] == pytest.approx([2.0 * n / 20 for n in range(1, 21)])
    assert values[20] == pytest.approx(2.0)
    assert values[60] == pytest.approx((2.0 + 0.2) / 2)  # half-way down
    assert values[100] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(values[20:]))


def test_cosine_without_warm_up_starts_at_the_full_rate() -> None:
    assert rates("scheduler=cosine", "scheduler.warmup_epochs=0")[0] == 2.0


def test_one_cycle_equals_pytorch() -> None:
    optimizer = sgd()
    schedule, expected = OneCycleLR(optimizer, max_lr=2.0, total_steps=100, pct_start=0.3), []
    for _ in range(100):
        expected.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    assert rates()[:100] == expected
    assert max(expected) == 2.0


@pytest.mark.parametrize(("total_steps", "fraction"), [(1, 0.3), (2, 0.5), (4, 0.25), (10, 0.1), (10, 0.0), (10, 1.0)])
def test_one_cycle_of_few_steps(total_steps: int, fraction: float) -> None:
    values = rates(f"+scheduler.pct_start={fraction}", total_steps=total_steps, epochs=1)
    assert all(0 < value <= 2.0 for value in values[:total_steps])


@pytest.mark.parametrize("name", ["cosine", "step", "none", "one_cycle"])
def test_training_of_one_batch_has_a_rate(name: str) -> None:
    assert 0 < rates(f"scheduler={name}", total_steps=1, epochs=1)[0] <= 2.0


def test_another_scheduler_of_pytorch_is_one_line() -> None:
    values = rates("scheduler._target_=torch.optim.lr_scheduler.CosineAnnealingLR", "+scheduler.T_max=100")
    assert values[50] == pytest.approx(1.0)
    assert values[100] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("interval", "expected"), [("step", 100), ("epoch", 10)])
def test_total_steps_is_how_often_the_scheduler_advances(interval: str, expected: int) -> None:
    made = optimization.create_scheduler(options_of(f"scheduler.interval={interval}"), sgd(), 100, 10)
    assert made["scheduler"].total_steps == expected  # type: ignore[union-attr]
    assert made["interval"] == interval


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["scheduler._target_=torch.optim.lr_scheduler.CosineLR"],
            r"lr_scheduler.CosineLR does not exist; did you mean CosineAnnealingLR",
        ),
        (["scheduler._target_=torch.optim.SGD"], r"_target_=torch.optim.SGD may not be instantiated"),
        (["scheduler=none", "+scheduler.gamma=1"], r"^scheduler.gamma=1: .*ConstantLR has no .* ~scheduler.gamma$"),
        (["+scheduler.pct_start=1.5"], r"OneCycle cannot be made .*1.5"),
        (["scheduler=step", "scheduler.step_size=0"], r"scheduler.step_size=0 must be 1 or more"),
        (["scheduler.interval=batch"], r"scheduler.interval=batch does not exist.* There are: step, epoch"),
        (["scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau"], "a run could not resume with it"),
        (["scheduler._target_=torch.optim.lr_scheduler.CosineAnnealingLR"], "CosineAnnealingLR cannot be made .*T_max"),
    ],
)
def test_schedules_that_do_not_work_are_errors(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rates(*words)


def test_one_cycle_without_momentum_is_an_error() -> None:
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(UserError, match=r"OneCycle cannot be made .*momentum"):
        optimization.create_scheduler(options_of(), optimizer, 10, 1)


def test_epoch_schedule_advances_once_an_epoch_and_is_resumed(small: list[str], tmp_path: Path) -> None:
    words = [*small, "scheduler=step", "scheduler.step_size=1", "optimizer.lr=0.01", "data.batch_size=4"]
    train(compose("train", [*words, f"run_dir={tmp_path}"]))
    lr = pd.read_csv(tmp_path / "metrics.csv")["train/lr"]
    assert lr.tolist() == pytest.approx([0.001, 0.0001])  # at the end of an epoch it has advanced
