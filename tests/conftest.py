"""What several test files need: a small folder of photographs, and the command line as a user types it."""

import os

# one thread a process: workers of pytest-xdist would otherwise fight for the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The place of decoded pixels, in the processes that tests start too; not the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["ALU_DEFECTS_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of twelve noisy stripes each: across, along and none."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for label in ("across", "along", "plain"):
        folder = root / label
        folder.mkdir()
        for number in range(12):
            image = rng.integers(90, 130, (48, 64, 3), dtype=np.uint8)
            start = int(rng.integers(8, 40))
            if label == "across":
                image[:, start : start + 6] = 230
            elif label == "along":
                image[start : start + 6] = 230
            Image.fromarray(image).save(folder / f"{label} {number}.png")
    return root


@pytest.fixture(scope="session")
def command() -> Command:
    """Run `python -m alu_defects.<verb> <overrides>`; the arguments are given to the process as they are."""

    def run(verb: str, *overrides: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", f"alu_defects.{verb}", *map(str, overrides)]
        environment = {**os.environ, "COLUMNS": "140", "HYDRA_FULL_ERROR": "0"}
        return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=600)

    return run


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """As `command`, in this process: for what ends before anything is trained, in a tenth of the time."""

    def run(verb: str, *overrides: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        words = [f"alu-{verb}", *map(str, overrides)]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        if cwd:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        try:
            importlib.import_module(f"alu_defects.{verb}").main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def small(photographs: Path) -> list[str]:
    """Overrides for a training of seconds on `photographs`."""
    return [
        "data=folder",
        f"data.root={photographs}",
        "data.image_size=32",
        "model.width=0.5",
        "trainer=cpu",
        "trainer.max_epochs=2",
        "trainer.enable_progress_bar=false",
        "callbacks.dashboard.every_n_epochs=1",
    ]


@pytest.fixture(scope="session")
def sweep(command: Command, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished sweep over two networks, one for all workers of pytest-xdist."""
    above = tmp_path_factory.getbasetemp()
    runs = (above.parent if "PYTEST_XDIST_WORKER" in os.environ else above) / "sweep"
    with FileLock(runs.with_suffix(".lock")):
        if not runs.exists():
            done = command("train", "-m", *small, "model.width=0.5,1.0", f"paths.runs={runs}")
            assert done.returncode == 0, done.stderr
            assert "no difference is shown" in " ".join(done.stdout.split())
            assert "shufflenet model.width=1.0" in done.stdout
    (folder,) = runs.iterdir()
    return folder


@pytest.fixture(scope="session")
def finished_run(sweep: Path) -> Path:
    """The folder of one finished run."""
    return next(path.parent for path in sorted(sweep.glob("*/run.json")))
