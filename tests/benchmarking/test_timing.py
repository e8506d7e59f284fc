import numpy as np
import pytest

from alu_defects.benchmarking import timing
from alu_defects.benchmarking.timing import Spread, first_call, interleaved, ratio, turns
from alu_defects.errors import UserError


class Clock:
    """A clock that only tasks move; `speed` makes the whole machine slower or faster."""

    def __init__(self, monkeypatch):
        self.now, self.speed, self.done = 0.0, 1.0, []
        monkeypatch.setattr(timing, "perf_counter", lambda: self.now)

    def task(self, name, seconds):
        def work():
            self.done.append(name)
            self.now += seconds * self.speed

        return work


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def turns_taken(done):
    """Names without their repetitions in a row."""
    return [name for number, name in enumerate(done) if number == 0 or done[number - 1] != name]


def test_every_other_round_runs_backwards():
    assert list(turns("abc", 3)) == list("abccbaabc")


def test_tasks_take_turns_that_are_long_enough(clock):
    tasks = {"slow": clock.task("slow", 2.0), "fast": clock.task("fast", 0.25)}
    measured = interleaved(tasks, repeats=4, seconds=1.0)
    assert {name: seconds.shape for name, seconds in measured.items()} == {"slow": (4, 1), "fast": (4, 1)}
    np.testing.assert_allclose(measured["slow"], 2.0)
    np.testing.assert_allclose(measured["fast"], 0.25)
    # each is warmed up, then: slow fast | fast slow | slow fast | fast slow
    assert turns_taken(clock.done) == ["slow", "fast", "slow", "fast", "slow", "fast", "slow"]
    last_turn = clock.done[: -clock.done[::-1].index("fast")][::-1]
    assert 0.25 * last_turn.index("slow") >= 2 * 1.0  # the two turns that lie side by side


def test_every_call_can_be_kept(clock):
    measured = interleaved({"a": clock.task("a", 0.1), "b": clock.task("b", 0.5)}, repeats=3, seconds=1, each_call=True)
    assert measured["a"].shape[0] == measured["b"].shape[0] == 3
    assert measured["a"].shape[1] >= 10
    assert measured["b"].shape[1] >= 2
    np.testing.assert_allclose(measured["a"], 0.1)


def test_what_slows_a_whole_round_down_cancels_in_the_ratio(clock):
    def drifting(name, seconds):
        work = clock.task(name, seconds)

        def task():
            work()
            clock.speed = 1 + len(clock.done) // 2  # slower after every second call

        return task

    # a turn is a call: two calls of warm-up each, then rounds of two turns at one speed
    measured = interleaved({"a": drifting("a", 3.0), "b": drifting("b", 1.0)}, repeats=5, seconds=0.5)
    assert Spread.of(measured["a"]).high > 1.5 * Spread.of(measured["a"]).low
    assert ratio(measured["a"], measured["b"]) == Spread(*[pytest.approx(3.0)] * 3)


@pytest.mark.parametrize("each_call", [False, True])
def test_the_device_is_waited_for_before_and_after_what_is_timed(clock, each_call):
    pending = []

    def wait():
        clock.now += sum(pending)
        pending.clear()

    tasks = {"a": lambda: pending.append(0.5), "b": lambda: pending.append(0.125)}
    pending.append(100.0)  # of what ran before
    assert first_call(tasks["a"], wait) == 0.5
    measured = interleaved(tasks, repeats=2, seconds=1.0, each_call=each_call, synchronize=wait)
    np.testing.assert_allclose(measured["a"], 0.5)
    np.testing.assert_allclose(measured["b"], 0.125)
    assert not pending


def test_the_first_calls_do_not_count(clock):
    left = [60.0, 5.0]  # compiling, then growing caches

    def task():
        clock.now += left.pop(0) if left else 0.5

    np.testing.assert_allclose(interleaved({"a": task}, repeats=2, seconds=1.0)["a"], 0.5)


def test_a_clock_that_does_not_move_yet_is_no_error(clock):
    calls = []

    def task():
        calls.append(1)
        clock.now = len(calls) // 100  # a tick every hundred calls

    assert interleaved({"a": task}, repeats=1, seconds=1.0)["a"] == pytest.approx(0.01, rel=0.2)


def test_spread_is_median_and_range():
    assert Spread.of([5, 1, 2]) == Spread(2, 1, 5)


@pytest.mark.parametrize(("setting", "wrong"), [({"repeats": 0}, "repeats=0"), ({"seconds": 0}, "seconds=0")])
def test_no_rounds_and_no_duration_are_refused(setting, wrong):
    with pytest.raises(UserError, match=wrong):
        interleaved({"a": int}, **{"repeats": 1, "seconds": 1.0, **setting})
