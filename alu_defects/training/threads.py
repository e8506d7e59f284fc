"""How many threads PyTorch computes with: one a core where the cores are free, fewer beside other busy programs.

Two threads wait for each other some thousand times a second. Where another program takes the core of one of them, both
stand still: training beside one busy program had a tenth of the speed that a single thread has.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from alu_defects.errors import UserError
from alu_defects.runs.run import Run

BUSY = ("user", "nice", "system", "irq", "softirq", "steal")  # steal: by other machines on the same hardware


class OtherLoad:
    """What other programs do on the processors that this one may use."""

    def __init__(self) -> None:
        self._before = _times()

    def busy_cores(self) -> float:
        """How many processors other programs kept busy on average since this was last asked."""
        before, self._before = self._before, _times()
        elapsed, busy, own = (now - then for now, then in zip(self._before, before, strict=True))
        return max(0.0, (busy - own) / max(elapsed, 1e-9))


def _times() -> tuple[float, float, float]:
    """Seconds: the time, and the processor time of all programs and of this one with its workers."""
    times = psutil.cpu_times(percpu=True)
    cores = _cores()
    if cores[-1] < len(times):  # else some are switched off, and it is not known which of the others these are
        times = [times[core] for core in cores]
    busy = sum(getattr(core, name, 0.0) for core in times for name in BUSY)
    process = psutil.Process()
    return time.monotonic(), busy, sum(_seconds(p) for p in (process, *process.children(recursive=True)))


def _cores() -> list[int]:
    """Numbers of the processors that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(psutil.cpu_count() or 1))


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # a worker that has just ended: its time is among that of its parent's children
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


@cache
def max_threads() -> int:
    """As many threads as PyTorch takes by itself: a core each, or OMP_NUM_THREADS."""
    return torch.get_num_threads()


def choose_threads(threads: int | str, load: OtherLoad) -> int:
    """The number of threads for `trainer.threads`: a number is itself, auto leaves busy cores to other programs."""
    busy = load.busy_cores()
    return threads if isinstance(threads, int) else max(1, min(max_threads(), round(len(_cores()) - busy)))


def check_threads(threads: Any) -> None:
    """Refuse a number of threads that cannot be.

    Raises:
        UserError: neither auto nor a whole number of 1 or more.
    """
    if threads != "auto" and not (type(threads) is int and threads >= 1):
        raise UserError(f"trainer.threads={threads} is neither auto nor a whole number of 1 or more")


def set_threads(threads: int | str) -> None:
    """Compute with `trainer.threads` from now on, for measurements; auto is `max_threads` then, whatever else is running."""
    check_threads(threads)
    torch.set_num_threads(threads if isinstance(threads, int) else max_threads())


@contextmanager
def restore_threads() -> Iterator[None]:
    """Give PyTorch back the number of threads that it had."""
    max_threads()  # remembers what PyTorch takes by itself, before anything changes it
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Threads(Callback):
    """Sets the number of threads at the start of each epoch, and writes it into run.json.

    The number changes sums in their last bits: a run that resumes repeats the numbers that are written there.

    Args:
        threads: a number, or auto: chosen again for each epoch by what other programs did during the previous one. Not
            on a GPU, and not for several processes, whose number of threads is Lightning's.
        run: whose run.json it is, and which has just started: the first epoch is chosen by what others do until then.
    """

    def __init__(self, threads: int | str, run: Run) -> None:
        self.threads, self.run, self.load = threads, run, OtherLoad()
        self.of_epochs: list[int] = run.status().get("threads", [])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose for this epoch."""
        epoch = trainer.current_epoch
        chosen = choose_threads(self.threads, self.load)
        if self.threads == "auto" and (trainer.world_size > 1 or trainer.strategy.root_device.type != "cpu"):
            chosen = torch.get_num_threads()
        if self.threads == "auto" and epoch < len(self.of_epochs):
            chosen = self.of_epochs[epoch]
        torch.set_num_threads(chosen)
        self.of_epochs = [*self.of_epochs[:epoch], chosen]
        if trainer.is_global_zero:
            self.run.update(threads=self.of_epochs)
