"""Timing by turns, so that a machine that grows slower or faster meanwhile favours no side."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alu_defects.errors import UserError

Seconds = NDArray[np.float64]
Task = Callable[[], object]
T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """A quantity that was measured once a round: its median, and the range of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike) -> "Spread":
        """Of the values of all rounds, (rounds,)."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(np.median(values)), float(values.min()), float(values.max()))


def ratio(numerators: Seconds, denominators: Seconds) -> Spread:
    """How many times one is the other, taken round by round: what slows a whole round down cancels. (rounds,) each."""
    return Spread.of(numerators / denominators)


def turns(names: Iterable[T], repeats: int) -> Iterator[T]:
    """Every name once in each of the rounds; every other round runs backwards."""
    names = list(names)
    for number in range(repeats):
        yield from names if number % 2 == 0 else reversed(names)


def interleaved(
    tasks: Mapping[str, Task],
    *,
    repeats: int,
    seconds: float,
    each_call: bool = False,
    synchronize: Task | None = None,
) -> dict[str, Seconds]:
    """Time tasks by turns, in rounds.

    Args:
        tasks: what is timed; each has run several times before it counts.
        repeats: number of rounds. In each, every task takes one turn: as many calls as fill `seconds`.
        seconds: the least duration of a turn.
        each_call: take the time of every call, for percentiles, instead of that of the turn. The device is then waited
            for after every call, which costs throughput on a GPU.
        synchronize: waits until the device has done what it was given; None for a CPU, which is never ahead.

    Returns:
        For each task the seconds of a call: (rounds, calls of a turn) with `each_call`, else (rounds, 1), the means.

    Raises:
        UserError: no rounds, or a turn without duration.
    """
    if repeats < 1:
        raise UserError(f"repeats={repeats} must be 1 or more")
    if not seconds > 0:
        raise UserError(f"seconds={seconds} must be above 0")
    wait = synchronize or (lambda: None)
    calls = {name: _calls_that_fill(seconds, task, wait) for name, task in tasks.items()}
    rounds: dict[str, list[list[float]]] = {name: [] for name in tasks}
    for name in turns(tasks, repeats):
        if each_call:
            rounds[name].append([_seconds(tasks[name], 1, wait) for _ in range(calls[name])])
        else:
            rounds[name].append([_seconds(tasks[name], calls[name], wait) / calls[name]])
    return {name: np.array(measured) for name, measured in rounds.items()}


def first_call(task: Task, synchronize: Task | None = None) -> float:
    """Seconds of a call with everything that only the first one does, such as compiling."""
    return _seconds(task, 1, synchronize or (lambda: None))


def _seconds(task: Task, calls: int, wait: Callable[[], Any]) -> float:
    wait()  # for what was given to the device before
    start = perf_counter()
    for _ in range(calls):
        task()
    wait()
    return perf_counter() - start


def _calls_that_fill(seconds: float, task: Task, wait: Callable[[], Any]) -> int:
    _seconds(task, 1, wait)  # the first call allocates, chooses kernels, compiles
    calls = 1
    while (taken := _seconds(task, calls, wait)) < seconds:
        # not at once: the first calls may still be slow, or the clock too coarse for so few
        calls = math.ceil(calls * min(10, 1.1 * seconds / max(taken, 1e-9)))
    return calls
