"""The number of threads of PyTorch: one for each free core, fewer beside other busy programs.

Two threads wait for each other some thousand times a second: where another program takes the core of one, both stand
still. Training beside one busy program had a tenth of the speed of a single thread.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from alu_defects.errors import UserError

BUSY = ("user", "nice", "system", "irq", "softirq", "steal")  # steal: by other machines on the same hardware


class OtherLoad:
    """How busy other programs keep the cores that this one may use."""

    def __init__(self) -> None:
        self._previous = _times()

    def busy_cores(self) -> float:
        """How many cores other programs kept busy on average since the previous call."""
        previous, self._previous = self._previous, _times()
        elapsed, busy, own = (now - then for now, then in zip(self._previous, previous, strict=True))
        return max(0.0, (busy - own) / max(elapsed, 1e-9))


def _times() -> tuple[float, float, float]:
    """Seconds: the time, the CPU time of all programs, and that of this one with its workers."""
    times, cores = psutil.cpu_times(percpu=True), _cores()
    if cores[-1] < len(times):  # else some cores are off, and psutil's list does not say which
        times = [times[core] for core in cores]
    busy = sum(getattr(core, name, 0.0) for core in times for name in BUSY)
    process = psutil.Process()
    return time.monotonic(), busy, sum(_seconds(p) for p in (process, *process.children(recursive=True)))


def _cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(psutil.cpu_count() or 1))


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # a worker that has just ended: its parent's children_user has its time
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


@cache
def max_threads() -> int:
    """PyTorch's own number of threads: one for each core, or OMP_NUM_THREADS."""
    return torch.get_num_threads()


def choose_threads(threads: int | str, load: OtherLoad) -> int:
    """The number of threads that `trainer.threads` means; auto leaves busy cores to other programs."""
    busy = load.busy_cores()
    return threads if isinstance(threads, int) else max(1, min(max_threads(), round(len(_cores()) - busy)))


def check_threads(threads: Any) -> None:
    """Raise a `UserError` if `trainer.threads` is neither auto nor a whole number of 1 or more."""
    if threads != "auto" and not (type(threads) is int and threads >= 1):
        raise UserError(f"trainer.threads={threads} is neither auto nor a whole number of 1 or more")


def set_threads(threads: int | str) -> None:
    """Compute with `trainer.threads` from now on; auto is `max_threads`, so that measurements can be compared."""
    check_threads(threads)
    torch.set_num_threads(threads if isinstance(threads, int) else max_threads())


@contextmanager
def restore_threads() -> Iterator[None]:
    """Restore PyTorch's number of threads at the end."""
    max_threads()  # remembers PyTorch's own number before anything changes it
    number = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(number)


class Threads(Callback):
    """Sets the number of threads at the start of each epoch, and records it as `threads`.

    auto chooses it by how busy other programs were since the previous epoch began, or this object was created; on a GPU
    and in several processes it changes nothing. The number changes sums in their last bits: a resumed run repeats what
    was recorded.
    """

    def __init__(self, threads: int | str, record: Callable[..., None], recorded: Sequence[int] = ()) -> None:
        self.threads, self.record, self.load = threads, record, OtherLoad()
        self.of_epochs = list(recorded)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose for this epoch."""
        epoch = trainer.current_epoch
        chosen = choose_threads(self.threads, self.load)
        if self.threads == "auto" and epoch < len(self.of_epochs):
            chosen = self.of_epochs[epoch]
        elif self.threads == "auto" and (trainer.world_size > 1 or trainer.strategy.root_device.type != "cpu"):
            chosen = torch.get_num_threads()
        torch.set_num_threads(chosen)
        self.of_epochs = [*self.of_epochs[:epoch], chosen]
        if trainer.is_global_zero:
            self.record(threads=self.of_epochs)
