"""What a run loses that is killed: nothing but the running epoch, and nothing at all when it has been resumed."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alu_defects import signals
from alu_defects.training import checkpoint

SECONDS = ["train/images_per_second", "train/seconds"]
EPOCHS = 5
LONGEST = 300  # seconds; a training that hangs is an error, not a test without end


@pytest.fixture(scope="module")
def words(small: list[str]) -> list[str]:
    """Everything that draws random numbers or keeps a state: dropout, augmentation, one-cycle, a moving average."""
    extra = ["callbacks=[default,ema]", "model.drop_rate=0.3", "data.batch_size=4"]
    return [*(word for word in small if "max_epochs" not in word), *extra, f"trainer.max_epochs={EPOCHS}"]


def start(*words: object, **options: Any) -> "subprocess.Popen[str]":
    environment = {**os.environ, "COLUMNS": "140", "HYDRA_FULL_ERROR": "0"}
    command = [sys.executable, *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    """Wait for the main process alone: its workers may live on for some seconds, and hold what they have of it."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = start(*words, stdout=output, stderr=errors)
        try:
            code = process.wait(LONGEST)
        finally:
            process.kill()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(words, code, output.read(), errors.read())


def train(*words: object) -> "subprocess.CompletedProcess[str]":
    return run("-m", "alu_defects.train", *words)


@pytest.fixture(scope="module")
def straight(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert train(*words, f"run_dir={folder}").returncode == 0
    return folder


def assert_equal(value: Any, wanted: Any, where: str) -> None:
    """To the bit, in whatever is nested."""
    assert type(value) is type(wanted), where
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(value, wanted), where
    elif isinstance(wanted, dict):
        assert value.keys() == wanted.keys(), where
        for key in wanted:
            assert_equal(value[key], wanted[key], f"{where}/{key}")
    elif isinstance(wanted, list | tuple):
        assert len(value) == len(wanted), where
        for number, (one, other) in enumerate(zip(value, wanted, strict=True)):
            assert_equal(one, other, f"{where}/{number}")
    else:
        assert value == wanted, where


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows, without the times."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = set(events.Tags()["scalars"]) - set(SECONDS)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in sorted(tags)}


def assert_same_run(folder: Path, straight: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        found, wanted = (checkpoint.read_checkpoint(f / "checkpoints" / name) for f in (folder, straight))
        for content in (found, wanted):
            del content["callbacks"]  # with the names of their folders
            for name_of_time in SECONDS:
                content["logged"].pop(name_of_time, None)  # best.ckpt is written before they are known
        assert_equal(found, wanted, name)
    tables = (pd.read_csv(f / "metrics.csv").drop(columns=SECONDS) for f in (folder, straight))
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    metrics = [json.loads((f / "metrics.json").read_text()) for f in (folder, straight)]
    for one in metrics:
        assert one.pop("seconds") > 0
    assert metrics[0] == metrics[1]
    assert (folder / "predictions.csv").read_bytes() == (straight / "predictions.csv").read_bytes()
    assert scalars(folder) == scalars(straight)
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("number", "place"),
    [(n, p) for n in ("SIGTERM", "SIGKILL") for p in ("epoch", "validation", "checkpoint", "saved")],
)
def test_a_killed_run_continues_to_the_bit(words, straight, tmp_path, number, place, workers):  # noqa: PLR0917
    code, status = {"SIGTERM": (143, "interrupted"), "SIGKILL": (-9, "running")}[number]
    folder = tmp_path / "run"
    killed = Path(__file__).with_name("killed.py")
    done = run(killed, place, number, *words, f"data.num_workers={workers}", f"run_dir={folder}")
    ended = time.time()
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    (sent,) = re.findall(r"^signal sent at (\S+)$", done.stderr, re.MULTILINE)
    assert ended - float(sent) < signals.GRACE
    assert json.loads((folder / "run.json").read_text())["status"] == status
    assert last_epoch(folder) == (2 if place == "saved" else 1)  # it lost the third
    done = train(f"resume={folder}")
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, straight)


@pytest.mark.slow
def test_a_run_that_is_validated_now_and_then_continues_to_the_bit(words, tmp_path):
    words = [*words, "trainer.check_val_every_n_epoch=2"]
    train(*words, f"run_dir={tmp_path / 'straight'}")
    folder = tmp_path / "run"
    assert run(Path(__file__).with_name("killed.py"), "epoch", "SIGKILL", *words, f"run_dir={folder}").returncode == -9
    assert last_epoch(folder) == 1
    done = train(f"resume={folder}")
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, tmp_path / "straight")


@pytest.mark.slow
def test_workers_make_no_difference(words, straight, tmp_path):
    assert train(*words, "data.num_workers=2", f"run_dir={tmp_path / 'run'}").returncode == 0
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "more", [["data.num_workers=2"], ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]]
)
def test_a_signal_to_all_processes_ends_all_of_them_at_once(words, tmp_path, number, more):
    """As Ctrl-C in a terminal does: to the main process, and to those that it started."""
    words = [
        word for word in words if "max_epochs" not in word and word not in ("trainer=cpu", "callbacks=[default,ema]")
    ]
    words += ["trainer.max_epochs=500", *more, f"run_dir={tmp_path / 'run'}"]
    process = start("-m", "alu_defects.train", *words, start_new_session=True)
    wait_for(lambda: last_epoch(tmp_path / "run") >= 0)
    os.killpg(process.pid, number)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=LONGEST)
    assert time.monotonic() - begun < 10
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    wait_for(lambda: not living(process.pid), seconds=10)


@pytest.mark.soak
def test_twenty_kills_at_random_moments_lose_no_more_than_the_running_epoch(words, tmp_path):
    """Every third falls into the start, the others at any moment of the training."""
    words = [word for word in words if "max_epochs" not in word]
    runs = tmp_path / "runs"
    words += ["trainer.max_epochs=60", f"paths.runs={runs}", "resume=auto"]
    assert train(*words[:-2], f"run_dir={tmp_path / 'straight'}").returncode == 0
    moments, reached = random.Random(0), -1
    for kill in range(20):
        process = start("-m", "alu_defects.train", *words)
        if kill % 3:
            wait_for(lambda at=reached: last_epoch(folder_of_the_run(runs)) > at)
            time.sleep(moments.uniform(0, 1.5))
        else:
            time.sleep(moments.uniform(0, 10))
        assert process.poll() is None, process.communicate(timeout=LONGEST)
        process.kill()
        process.communicate(timeout=LONGEST)
        if reached >= 0 or kill % 3:
            folder = folder_of_the_run(runs)
            history = pd.read_csv(folder / "metrics.csv")["epoch"].max()
            assert last_epoch(folder) >= max(reached, history - 1)
            checkpoint.load_classifier(folder / "checkpoints" / "best.ckpt")
            reached = last_epoch(folder)
    done = train(*words)
    assert done.returncode == 0, done.stderr
    assert len(list(runs.glob("*/run.json"))) == 1  # it continued in one folder
    assert_same_run(folder_of_the_run(runs), tmp_path / "straight")


def folder_of_the_run(runs: Path) -> Path:
    return next((file.parent for file in runs.glob("*/run.json")), Path())


def wait_for(found: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError("it took too long")


def living(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
            found += [file.parent.name] if int(its_group) == group and state != "Z" else []
    return found


def last_epoch(folder: Path) -> int:
    """The epoch of the last checkpoint; -1: there is none."""
    file = folder / "checkpoints" / "last.ckpt"
    return int(checkpoint.read_checkpoint(file)["epoch"]) if file.exists() else -1
