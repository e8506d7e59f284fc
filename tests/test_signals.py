"""SIGTERM and Ctrl-C end a program in order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from alu_defects import signals
from alu_defects.signals import Interrupted, ending_in_order, interrupting


def get(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "SIGINT")])
def test_a_signal_raises_and_the_code_is_that_of_shells(number: int, code: int, name: str) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, interrupting():
        get(number)
    assert (caught.value.code, caught.value.name) == (code, name)
    assert signal.getsignal(number) is before


@contextmanager
def ending(*numbers: int, after: float = 0) -> Iterator[None]:
    """What ends gets further signals."""
    try:
        yield
    finally:
        time.sleep(after)
        for number in numbers:
            get(number)


def test_a_second_signal_does_not_disturb_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Interrupted, match="143"), interrupting(), ending(signal.SIGINT, signal.SIGTERM):
        get(signal.SIGTERM)
    assert capfd.readouterr().err.count("ending") == 2


def test_an_end_that_takes_too_long_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "GRACE", 0.05)
    with pytest.raises(Interrupted, match="130"), interrupting(), ending(signal.SIGINT, after=0.1):
        get(signal.SIGTERM)


LEFT_BEHIND = """
import multiprocessing, sys, time
from alu_defects import signals
def work(started):
    signals.leave_to_main_process()
    started.set()
    time.sleep(600)
if __name__ == "__main__":
    started = multiprocessing.Event()
    worker = multiprocessing.Process(target=work, args=[started], daemon=True)
    worker.start()
    print(worker.pid)
    started.wait()
    sys.exit(3)
"""


def test_a_program_ends_though_its_workers_ignore_signals(tmp_path: Path) -> None:
    """After an error, iterators with workers are left in the frames of its traceback."""
    (tmp_path / "left_behind.py").write_text(LEFT_BEHIND)
    words = [sys.executable, str(tmp_path / "left_behind.py")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=signals.GRACE / 2, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_a_worker_that_nobody_ends_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "GRACE", 0.5)
    if (child := os.fork()) == 0:
        signals.leave_to_main_process()
        get(signal.SIGTERM)
        time.sleep(60)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


OPEN_POOL = """
import multiprocessing
from alu_defects import signals
if __name__ == "__main__":
    pool = multiprocessing.Pool(2)
    print(pool.map(abs, [-1, -2]))
"""


def test_pools_of_others_end_in_their_own_way(tmp_path: Path) -> None:
    (tmp_path / "open_pool.py").write_text(OPEN_POOL)
    words = [sys.executable, str(tmp_path / "open_pool.py")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "[1, 2]\n")


def test_worker_processes_wait_for_the_main_one() -> None:
    with interrupting():
        if (child := os.fork()) == 0:
            signals.leave_to_main_process()
            get(signal.SIGTERM)
            get(signal.SIGINT)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_loop_ends_by_itself_at_the_first_signal_and_at_once_at_the_second(capfd: pytest.CaptureFixture[str]) -> None:
    with interrupting(), ending_in_order() as is_ending:
        assert not is_ending()
        get(signal.SIGTERM)
        assert is_ending()
        assert capfd.readouterr().err == "ending after this batch\n"
        with pytest.raises(Interrupted, match="130"):
            get(signal.SIGINT)
