"""Learning rates at the steps that matter."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from alu_defects.errors import UserError
from alu_defects.training import optimization


def rates(name: str, total_steps: int = 100, epochs: int = 10, **options: Any) -> list[float]:
    """The learning rate that each of the steps is taken with, and the one after the last."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0, momentum=0.9)
    schedule = optimization.create_scheduler(name, optimizer, total_steps, epochs, **options)
    result = []
    for _ in range(total_steps):
        result.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return [*result, float(optimizer.param_groups[0]["lr"])]


def test_none_stays() -> None:
    assert set(rates("none")) == {2.0}


def test_step_multiplies_at_the_first_batch_of_an_epoch() -> None:
    values = rates("step", step_epochs=4, gamma=0.1)
    assert values[:40] == [2.0] * 40
    assert values[40:80] == pytest.approx([0.2] * 40)
    assert values[80:] == pytest.approx([0.02] * 21)


def test_cosine_rises_linearly_then_falls_to_the_fraction() -> None:
    values = rates("cosine", warmup_epochs=2, final_fraction=0.1)
    assert values[:20] == pytest.approx([2.0 * n / 20 for n in range(1, 21)])
    assert values[20] == pytest.approx(2.0)
    assert values[60] == pytest.approx((2.0 + 0.2) / 2)  # half-way down
    assert values[100] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(values[20:]))


def test_cosine_without_warm_up_starts_at_the_full_rate() -> None:
    assert rates("cosine", warmup_epochs=0, final_fraction=0.0)[0] == 2.0


def test_one_cycle_peaks_at_the_end_of_its_warm_up_and_ends_near_nothing() -> None:
    values = rates("one_cycle", warmup_fraction=0.3)
    peak = values.index(max(values))
    assert values[peak] == pytest.approx(2.0)
    assert peak in (29, 30)
    assert values[0] < 0.1
    assert values[99] < 1e-3


@pytest.mark.parametrize(("total_steps", "fraction"), [(1, 0.3), (2, 0.5), (4, 0.25), (10, 0.1), (10, 0.0), (10, 1.0)])
def test_one_cycle_of_few_steps(total_steps: int, fraction: float) -> None:
    values = rates("one_cycle", total_steps, 1, warmup_fraction=fraction)
    assert all(0 < value <= 2.0 for value in values[:total_steps])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cosine", {"warmup_epochs": 2, "final_fraction": 0.0}),
        ("step", {"step_epochs": 1, "gamma": 0.5}),
    ],
)
def test_a_training_of_one_batch_has_a_rate(name: str, options: dict[str, Any]) -> None:
    assert 0 < rates(name, 1, 1, **options)[0] <= 2.0


def test_an_unknown_schedule_answers_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"scheduler.name=cosin does not exist; did you mean cosine"):
        rates("cosin")


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("none", {"gamma": 0.1}, "gamma"),
        ("one_cycle", {"warmup_fraction": 1.5}, "1.5"),
        ("step", {"step_epochs": 0, "gamma": 0.1}, "zero"),
    ],
)
def test_options_that_a_schedule_does_not_take_are_named(name: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"scheduler.name={name}: .*{named}"):
        rates(name, **options)


def test_one_cycle_says_so_when_the_optimiser_has_no_momentum_to_cycle() -> None:
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(UserError, match=r"scheduler.name=one_cycle: .*momentum"):
        optimization.create_scheduler("one_cycle", optimizer, 10, 1, warmup_fraction=0.3)
