"""Memory that processes hold; NaN where the system does not say."""

import ctypes
import gc
import math
import multiprocessing
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # whoever measures a catalog must not measure torch with it
    import torch


def peak() -> float:
    """The most bytes that this process has held."""
    if not math.isnan(most := _status("VmHWM")):
        return most  # Linux; its ru_maxrss begins with that of the process that started this one
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


class Peak:
    """The most bytes that this process holds on a device from now on, above what it holds now."""

    def __init__(self, device: "torch.device") -> None:
        import torch

        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before: float = torch.cuda.memory_allocated(device)
        else:
            gc.collect()
            with suppress(OSError, AttributeError):  # glibc: what earlier tasks freed goes back to the system
                ctypes.CDLL(None).malloc_trim(0)
            with suppress(OSError):  # Linux: VmHWM starts again
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self.before = _status("VmRSS")

    def above(self) -> float:
        """Until now."""
        import torch

        most = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _status("VmHWM")
        return most - self.before


def added(task: Callable[[], object]) -> float:
    """The most bytes that a task adds to what this process and its children hold, looked at 50 times a second.

    What several share, such as a mapped file, is divided among them.
    """
    before, most, done = _held(), -math.inf, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, _held())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        task()
        most = max(most, _held())
    finally:
        done.set()
        watcher.join()
    return most - before


def _held() -> float:
    children = [str(process.pid) for process in multiprocessing.active_children()]
    return sum(_proportional(process) for process in ("self", *children))


def _proportional(process: str) -> float:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    except OSError:  # a child that has ended, or not Linux
        return math.nan if process == "self" else 0.0
    return _kilobytes(text, "Pss")


def _status(name: str) -> float:
    file = Path("/proc/self/status")
    return _kilobytes(file.read_text(encoding="utf-8"), name) if file.is_file() else math.nan


def _kilobytes(text: str, name: str) -> float:
    found = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
    return 1024.0 * int(found[1]) if found else math.nan
