"""Long sweeps and long trainings in one process: neither memory nor open files grow. Minutes, so `make soak`."""

import gc
from pathlib import Path

import pytest

from alu_defects.config import compose
from alu_defects.reports import terminal
from alu_defects.train import train
from alu_defects.training.callbacks import Throughput

GROWTH = 1.05

Use = list[tuple[int, int]]


def note(use: Use) -> None:
    """Note the memory in kB and the number of open files of this process."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    (memory,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    use.append((memory, len(list(Path("/proc/self/fd").iterdir()))))


def assert_constant(use: Use, since: int) -> None:
    """Compare the end with `since`, when all that is loaded once has been loaded."""
    memory, files = zip(*use[since:], strict=True)
    print(f"memory {memory[0]:,} → {memory[-1]:,} kB, open files {files[0]} → {files[-1]}")
    assert memory[-1] < GROWTH * memory[0]
    assert min(files[-10:]) <= min(files[:10])  # another thread may just hold one more


@pytest.mark.soak
def test_a_sweep_of_fifty_runs(typed, small, tmp_path, monkeypatch):
    use: Use = []
    shown = terminal.print_run
    monkeypatch.setattr(terminal, "print_run", lambda *given: (shown(*given), note(use)))
    done = typed(
        "train", "-m", *small, "trainer.max_epochs=1", "seed=range(0,50)", "sweep.jobs=1", f"paths.runs={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    assert len(use) == 50
    assert_constant(use, since=10)


@pytest.mark.soak
def test_a_training_of_two_hundred_epochs(small, tmp_path, monkeypatch):
    use: Use = []
    end = Throughput.on_train_epoch_end
    monkeypatch.setattr(Throughput, "on_train_epoch_end", lambda *given: (end(*given), note(use)))
    train(compose("train", [*small, "trainer.max_epochs=200", f"run_dir={tmp_path / 'run'}"]))
    assert len(use) == 200
    assert_constant(use, since=20)
