"""Times in interleaved rounds, so that a machine that becomes slower or faster favours no side; memory; tables."""

import ctypes
import gc
import math
import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, TypeVar

import numpy as np
import psutil
import rich.table
from numpy.typing import ArrayLike, NDArray
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.text import Text

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
        low, median, high = np.quantile(np.asarray(values, np.float64), (0, 0.5, 1))
        return cls(float(median), float(low), float(high))


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
    """Seconds of a call of each task by name and round, (calls of a turn,); a turn takes `seconds` after a first call.

    `each_call` times every call, for percentiles, instead of PyTorch's blocks of calls; on a GPU that costs throughput.
    """
    import torch
    from torch.utils.benchmark import Timer, timer

    rounds: dict[str, list[Seconds]] = {name: [] for name in tasks}
    for name in take_turns(tasks, repeats):
        if each_call:
            tasks[name]()
            end, times = timer() + seconds, [time_call(tasks[name])]
            while timer() < end:
                times.append(time_call(tasks[name]))
        else:
            blocks = Timer("task()", globals={"task": tasks[name]}, timer=timer, num_threads=torch.get_num_threads())
            times = blocks.blocked_autorange(min_run_time=seconds).times
        rounds[name].append(np.array(times))
    return rounds


def peak_memory(task: Task, device_type: str = "cpu") -> float:
    """The most bytes that a task adds: on a GPU of tensors; else of this process, mapped files, and its workers."""
    if device_type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc: what earlier tasks freed goes back to the system
        ctypes.CDLL(None).malloc_trim(0)
    held, done = [_held_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):  # seconds
            held.append(_held_memory())

    with ThreadPoolExecutor(1) as pool:
        pool.submit(watch)
        try:
            task()
        finally:
            done.set()
    return max(*held, _held_memory()) - held[0]


def _held_memory() -> int:
    held = int(psutil.Process().memory_info().rss)
    for child in multiprocessing.active_children():
        with suppress(psutil.Error):  # it has just ended
            held += int(psutil.Process(child.pid).memory_full_info().uss)
    return held


@dataclass(frozen=True)
class Table:
    """A table of measurements, for the terminal and in Markdown."""

    title: str
    rows: list[dict[str, Any]]  # one or more, of the same names: text, numbers, `Spread`s, None for not measured
    note: str = ""  # how to read it
    names: int = 1  # so many first columns name a row, such as network and pixels

    def to_rich(self, width: int) -> RenderableType:
        """For a terminal of `width` columns: one table, or where that is too wide a block for each name."""
        whole = _rich_table(self.rows)
        whole.title, whole.caption = escape(self.title), escape(self.note) or None
        if Console(width=10_000).measure(whole).maximum <= width:
            return whole
        first, *others = list(self.rows[0])[: self.names]
        blocks: list[RenderableType] = []
        for key, group in groupby(self.rows, lambda row: ", ".join([row[first], *(f"{n} {row[n]}" for n in others)])):
            rows = [dict(list(row.items())[self.names :]) for row in group]
            if upright := len(rows) == 1:
                rows = [{"quantity": name, "value": value} for name, value in rows[0].items()]
            blocks += [Text(key, style="bold"), _rich_table(rows, header=not upright)]
        return Group(Text(self.title, style="table.title"), *blocks, Text(self.note, style="table.caption"))

    def to_markdown(self) -> str:
        """The same in Markdown, below a heading."""
        rule = ["---" if side == "left" else "---:" for side in _alignment(self.rows).values()]
        cells = [list(self.rows[0]), rule, *(map(format_value, row.values()) for row in self.rows)]
        lines = [f"| {' | '.join(row)} |" for row in cells]
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])])


def _alignment(rows: list[dict[str, Any]]) -> dict[str, Literal["left", "right"]]:
    return {name: "left" if all(isinstance(row[name], str) for row in rows) else "right" for name in rows[0]}


def _rich_table(rows: list[dict[str, Any]], header: bool = True) -> rich.table.Table:
    table = rich.table.Table(box=SIMPLE, show_header=header, show_edge=False, pad_edge=False, collapse_padding=True)
    for name, justify in _alignment(rows).items():
        table.add_column(escape(name), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(escape(format_value(value)) for value in row.values()))
    return table


def format_value(value: Any) -> str:
    """A cell as text: counts in full, others in three digits, None as a dash, a range that is seen in brackets."""
    if isinstance(value, Spread):
        median, low, high = map(format_value, (value.median, value.low, value.high))
        return median if low == high else f"{median} ({low}–{high})"
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, int):
        return f"{value:,}"
    value = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:,.{max(0, decimals)}f}"
