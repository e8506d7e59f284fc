"""How many threads train, alone and beside other programs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from alu_defects.config import compose
from alu_defects.errors import UserError
from alu_defects.reports.tensorboard import Dashboard
from alu_defects.train import train
from alu_defects.training import threads


class FixedLoad(threads.OtherLoad):
    """Other programs that keep so many cores busy."""

    def __init__(self, busy: float) -> None:
        self.busy = busy

    def busy_cores(self) -> float:
        return self.busy


@pytest.mark.parametrize(
    ("cores", "busy", "expected"),
    [(2, 0.0, 2), (2, 0.3, 2), (2, 1.0, 1), (2, 2.0, 1), (8, 1.2, 7), (8, 30.0, 1), (1, 0.0, 1)],
)
def test_one_thread_for_each_free_core(monkeypatch: pytest.MonkeyPatch, cores: int, busy: float, expected: int) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: list(range(cores)))
    monkeypatch.setattr(threads, "max_threads", lambda: cores)
    assert threads.choose_threads("auto", FixedLoad(busy)) == expected
    assert threads.choose_threads(3, FixedLoad(busy)) == 3


def test_no_more_threads_than_pytorchs_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: list(range(8)))  # two for each physical core
    monkeypatch.setattr(threads, "max_threads", lambda: 4)
    assert threads.choose_threads("auto", FixedLoad(1.0)) == 4


def test_busy_program_is_measured() -> None:
    # by a shell that ends: what this process starts itself is a worker of its own
    words = ["sh", "-c", '"$0" -c "while True: pass" >/dev/null 2>&1 & echo $!', sys.executable]
    other = psutil.Process(int(subprocess.run(words, capture_output=True, check=True, text=True).stdout))
    try:
        load, before = threads.OtherLoad(), sum(other.cpu_times()[:2])
        time.sleep(1)
        busy, used = load.busy_cores(), sum(other.cpu_times()[:2]) - before
    finally:
        other.kill()
    assert busy > 0.8 * used > 0.1


def test_own_worker_counts_as_own_time() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as worker:
        time.sleep(0.5)
        process, before = psutil.Process(worker.pid), threads._times()[2]
        used = sum(process.cpu_times()[:2])
        time.sleep(1)
        used = sum(process.cpu_times()[:2]) - used
        after = threads._times()[2]
        worker.kill()
    assert after - before > 0.8 * used > 0


def test_own_time_is_subtracted(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(100.0, 50.0, 20.0), (110.0, 68.0, 36.0)])  # clock, all programs, own
    monkeypatch.setattr(threads, "_times", lambda: next(times))
    assert threads.OtherLoad().busy_cores() == pytest.approx(0.2)


def test_offline_cores_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: [0, 4096])
    assert threads.OtherLoad().busy_cores() >= 0


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "two", True, None])
def test_invalid_number_of_threads_is_an_error(wrong: object) -> None:
    with pytest.raises(UserError, match=f"trainer.threads={wrong} is neither auto nor a whole number"):
        threads.check_threads(wrong)


def interrupt_in_the_third_epoch(self: Dashboard, trainer: object, module: object) -> None:
    if trainer.current_epoch == 2:  # type: ignore[attr-defined]
        raise KeyboardInterrupt


@pytest.mark.slow
def test_threads_are_recorded_and_repeated_by_resume(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_with(chosen: list[int], *words: str) -> list[int]:
        numbers = iter(chosen)
        monkeypatch.setattr(threads, "choose_threads", lambda *_: next(numbers))
        config = compose("train", [*words])
        if not config.resume:
            with monkeypatch.context() as patch:
                patch.setattr(Dashboard, "on_validation_end", interrupt_in_the_third_epoch)
                with pytest.raises((KeyboardInterrupt, SystemExit)):
                    train(config)
        else:
            train(config)
        noted: list[int] = json.loads((tmp_path / "run" / "run.json").read_text())["threads"]
        return noted

    before = torch.get_num_threads()
    run_dir = f"run_dir={tmp_path / 'run'}"
    assert run_with([2, 1, 2], *small, run_dir, "trainer.max_epochs=4") == [2, 1, 2]
    assert run_with([1, 1], f"resume={tmp_path / 'run'}") == [2, 1, 2, 1]  # the third again, as it was
    assert torch.get_num_threads() == before


def test_fixed_number_of_threads_is_recorded_for_every_epoch(small: list[str], tmp_path: Path) -> None:
    train(compose("train", [*small, "trainer.threads=2", f"run_dir={tmp_path}"]))
    assert json.loads((tmp_path / "run.json").read_text())["threads"] == [2, 2]
