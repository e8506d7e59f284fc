"""Times in interleaved rounds, so that a machine that becomes slower or faster favours no side; and peak memory."""

import ctypes
import gc
import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import psutil
from numpy.typing import ArrayLike, NDArray

# torch is imported inside functions: benchmarks/scale.py measures processes without it

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
    def of_rounds(cls, values: ArrayLike) -> "Spread":
        """Sum up the values of all rounds, (rounds,). Of ratios round by round: what slows a whole round cancels."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(np.median(values)), float(values.min()), float(values.max()))


def take_turns(names: Iterable[T], repeats: int) -> Iterator[T]:
    """Every name once in each of the rounds; every other round runs backwards."""
    names = list(names)
    for number in range(repeats):
        yield from names if number % 2 == 0 else reversed(names)


def time_call(task: Task) -> float:
    """Seconds of one call, until the device has finished it."""
    from torch.utils.benchmark import timer  # waits for the device

    start = timer()
    task()
    return timer() - start


def time_tasks(
    tasks: Mapping[str, Task], *, repeats: int, seconds: float, each_call: bool = False
) -> dict[str, list[Seconds]]:
    """Time tasks by turns, in rounds.

    Args:
        tasks: name → what is timed.
        repeats: number of rounds; in each, every task takes one turn.
        seconds: the least duration of a turn, after a first call that does not count.
        each_call: time every call, for percentiles, instead of blocks of calls as PyTorch's timer makes them. The
            device is then waited for after every call, which costs throughput on a GPU.

    Returns:
        name → of each round the seconds of a call, (calls or blocks of its turn,).
    """
    import torch
    from torch.utils.benchmark import Timer, timer

    def take_turn(task: Task) -> Seconds:
        if not each_call:
            blocks = Timer("task()", globals={"task": task}, timer=timer, num_threads=torch.get_num_threads())
            return np.array(blocks.blocked_autorange(min_run_time=seconds).times)
        task()
        end, times = timer() + seconds, [time_call(task)]
        while timer() < end:
            times.append(time_call(task))
        return np.array(times)

    rounds: dict[str, list[Seconds]] = {name: [] for name in tasks}
    for name in take_turns(tasks, repeats):
        rounds[name].append(take_turn(tasks[name]))
    return rounds


def peak_memory(task: Task, device_type: str = "cpu") -> float:
    """The most bytes that a task adds to what is held.

    Of a GPU it is what tensors take. Else it is that of this process with the pages of mapped files, and what its
    workers have for themselves, looked at 50 times a second.
    """
    if device_type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc: what earlier tasks freed goes back to the system
        ctypes.CDLL(None).malloc_trim(0)
    held, done = [_held()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            held.append(_held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        task()
    finally:
        done.set()
        watcher.join()
    return max(*held, _held()) - held[0]


def _held() -> int:
    held = int(psutil.Process().memory_info().rss)
    for child in multiprocessing.active_children():
        with suppress(psutil.Error):  # it has just ended
            held += int(psutil.Process(child.pid).memory_full_info().uss)
    return held
