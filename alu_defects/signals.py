"""SIGTERM and Ctrl-C end a program in order: what runs can note that it was interrupted, and the exit code tells."""

import math
import multiprocessing.util
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 10.0  # seconds to end in


class Interrupted(SystemExit):
    """A signal asked the program to end. The exit code is 128 and its number, as shells have it: 143, 130."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


def leave_to_main_process(worker: int = 0) -> None:
    """Leave it to the main process to end this one: Ctrl-C, for one, goes to both, and a dead worker is an error.

    SIGTERM counts after `GRACE` seconds: multiprocessing ends workers by it, and then waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_soon(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another one must not begin again
        signal.alarm(math.ceil(GRACE))

    signal.signal(signal.SIGTERM, end_soon)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))  # for torch, another code is an error


def _kill_workers() -> None:
    """End at once the workers that are left, as after an error: those of an iterator that nobody has collected yet."""
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # for torch, a worker that was killed is an error
    for worker in workers:
        worker.kill()


# after pools have ended their own workers (priority 15), before multiprocessing waits for all that are left
multiprocessing.util.Finalize(None, _kill_workers, exitpriority=0)


@contextmanager
def ending_in_order() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGTERM or SIGINT arrived, for a loop that then ends by itself.

    The next signal does what it did before: the loop may wait for a disk that does not answer.
    """
    asked = False  # no threading.Event: its lock may be held where the signal arrives

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        restore()
        os.write(2, b"ending after this batch\n")  # print may be what was interrupted

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield lambda: asked
    finally:
        restore()


@contextmanager
def interrupting() -> Iterator[None]:
    """Raise `Interrupted` in the main thread where SIGTERM or SIGINT arrive.

    What ends because of the first signal is not disturbed by another for `GRACE` seconds. Lightning alone would train
    to the end of a batch, and exit with code 0 or 1.
    """
    first = -GRACE

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if time.monotonic() - first < GRACE:
            os.write(2, b"ending, one moment\n")  # print may be what was interrupted
            return
        first = time.monotonic()
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
