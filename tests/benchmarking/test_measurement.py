import time

import numpy as np
import pytest
import torch

from alu_defects.benchmarking.measurement import Spread, peak_memory, take_turns, time_call, time_tasks


class Clock:
    """A clock that only tasks move; `speed` makes the whole machine slower or faster."""

    def __init__(self, monkeypatch):
        self.now, self.speed, self.done = 0.0, 1.0, []
        monkeypatch.setattr("torch.utils.benchmark.timer", lambda: self.now)

    def task(self, name, seconds):
        def work():
            self.done.append(name)
            self.now += seconds * self.speed

        return work


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_every_other_round_runs_backwards():
    assert list(take_turns("abc", 3)) == list("abccbaabc")


@pytest.mark.parametrize("each_call", [False, True])
def test_tasks_take_turns_that_are_long_enough(clock, each_call):
    tasks = {"slow": clock.task("slow", 2.0), "fast": clock.task("fast", 0.25)}
    measured = time_tasks(tasks, repeats=4, seconds=1.0, each_call=each_call)
    for name, seconds in (("slow", 2.0), ("fast", 0.25)):
        assert len(measured[name]) == 4
        np.testing.assert_allclose(np.concatenate(measured[name]), seconds)
    turns = [name for number, name in enumerate(clock.done) if clock.done[number - 1 : number] != [name]]
    assert turns == ["slow", "fast", "slow", "fast", "slow"]  # slow fast | fast slow | slow fast | fast slow
    assert clock.done.count("fast") >= 4 * (1 + 1.0 / 0.25)  # a first call, and those that count
    if each_call:
        assert all(len(calls) >= 4 for calls in measured["fast"])


def test_drift_of_the_machine_cancels_in_the_ratio(clock):
    def drifting(name, seconds):
        work = clock.task(name, seconds)

        def task():
            clock.speed = 1 + len(clock.done) // 4  # a turn is two calls, a round four
            work()

        return task

    tasks = {"a": drifting("a", 3.0), "b": drifting("b", 1.0)}
    measured = time_tasks(tasks, repeats=5, seconds=0.5, each_call=True)
    a, b = (np.array([calls.mean() for calls in measured[name]]) for name in "ab")
    assert Spread.of_rounds(a).high > 1.5 * Spread.of_rounds(a).low
    assert Spread.of_rounds(a / b) == Spread(*[pytest.approx(3.0)] * 3)


def test_the_first_call_of_a_turn_does_not_count(clock):
    left = [60.0]  # compiling

    def task():
        clock.now += left.pop(0) if left else 0.5

    assert time_tasks({"a": task}, repeats=2, seconds=1.0, each_call=True)["a"][0] == pytest.approx(0.5)


def test_a_call_lasts_until_the_device_has_finished_it(monkeypatch):
    now, pending = [0.0], [100.0]  # of what ran before

    def timer():
        now[0] += sum(pending)
        pending.clear()
        return now[0]

    monkeypatch.setattr("torch.utils.benchmark.timer", timer)
    assert time_call(lambda: pending.append(0.5)) == 0.5


def test_spread_is_median_and_range():
    assert Spread.of_rounds([5, 1, 2]) == Spread(2, 1, 5)


def test_memory_that_is_held_for_a_moment_is_seen():
    def hold():
        held = torch.ones(25_000_000)
        time.sleep(0.2)
        assert held.sum() > 0

    assert 0.8e8 < peak_memory(hold) < 1.6e8
