"""The run folder: what it holds, how a run ends, and what may continue."""

import errno
import json
import os
import subprocess
import threading
from pathlib import Path

import pandas as pd
import psutil
import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from alu_defects import io
from alu_defects.errors import UserError
from alu_defects.io import write_json
from alu_defects.runs import run as run_module
from alu_defects.runs.run import Run

CONFIG = OmegaConf.create({"seed": 3, "name": "盒", "copy": "${seed}", "trainer": {"max_epochs": 5, "devices": 1}})
TABLE = pd.DataFrame(
    {"path": ["a/x.png", "b/y.png"], "label": ["a", "b"], "sha256": ["1", "2"], "split": ["train", "val"]}
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "new" / "run", CONFIG, ["seed=3"])


def test_a_new_run_notes_what_made_it(run: Run) -> None:
    status = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    assert status["status"] == "running"
    assert status["overrides"] == ["seed=3"]
    assert status["seed"] == 3
    assert status["packages"]["torch"].startswith("2.")
    assert {"started", "command", "git_commit", "python", "platform"} <= status.keys()
    assert run.config() == {**CONFIG, "copy": 3}
    text = run.config_file.read_text(encoding="utf-8")
    assert "盒" in text
    assert "${" not in text  # a resolver such as now: would answer differently later


def test_a_folder_with_a_run_is_not_overwritten(run: Run) -> None:
    before = run.status_file.read_bytes()
    with pytest.raises(UserError, match=f"holds a run already; continue it with resume={run.folder}"):
        Run.create(run.folder, OmegaConf.create({"seed": 4}), [])
    assert run.status_file.read_bytes() == before
    assert run.config().seed == 3


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_of_several_started_processes_only_the_first_writes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UserError, match=rf"{variable}=1: several processes were started"):
        Run.create(tmp_path / "second", CONFIG, [], claim=True)
    with pytest.raises(UserError, match=rf"{variable}=1: several processes were started"):
        Run.resume(run.folder, [])
    assert not (tmp_path / "second").exists()
    monkeypatch.setenv(variable, "0")
    Run.create(tmp_path / "second", CONFIG, [])


def test_how_a_run_ends_is_recorded(run: Run) -> None:
    with run.recorded():
        assert run.status()["status"] == "running"
    assert run.status()["status"] == "finished"
    assert "ended" in run.status()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("no images"), "failed"),
        (MemoryError(), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(0), "interrupted"),
    ],
)
def test_an_error_is_recorded_and_continues(
    run: Run, error: BaseException, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(type(error)), run.recorded():
        raise error
    assert run.status()["status"] == status
    assert (f"resume={run.folder} continues" in caplog.text) == (status == "interrupted")
    if status == "failed":
        assert run.status()["error"] == f"{type(error).__name__}: {error}"


def test_an_error_that_names_a_file_outside_utf8_is_recorded_too(run: Run) -> None:
    path = os.fsdecode(b"\xff\xfe.png")
    with pytest.raises(UserError), run.recorded():
        raise UserError(f"{path} cannot be decoded")
    assert run.status()["status"] == "failed"
    assert run.status()["error"] == f"UserError: {path} cannot be decoded"


def test_a_failed_run_can_be_resumed_and_then_has_no_error(run: Run) -> None:
    with pytest.raises(ValueError, match="x"), run.recorded():
        raise ValueError("x")
    again, _ = Run.resume(run.folder, [])
    assert again.status()["status"] == "running"
    assert len(again.status()["resumed"]) == 1
    with again.recorded():
        pass
    assert again.status()["status"] == "finished"
    assert not again.status().get("error")


def test_a_finished_run_or_a_folder_without_one_is_not_resumed(run: Run, tmp_path: Path) -> None:
    with run.recorded():
        pass
    with pytest.raises(UserError, match="has finished; there is nothing to resume"):
        Run.resume(run.folder, [])
    assert run.status()["status"] == "finished"
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        with pytest.raises(UserError, match="is not a run folder"):
            Run.resume(tmp_path / folder, [])


def test_a_full_disk_is_said_and_the_reason_kept(run: Run) -> None:
    message = r"metrics\.csv cannot be written \(No space left on device\).* continue with resume="
    with pytest.raises(UserError, match=message), run.recorded():
        fail(run, errno.ENOSPC)
    with pytest.raises(OSError, match="Input/output"), run.recorded():
        fail(run, errno.EIO)
    assert run.status()["status"] == "failed"


def test_a_disk_that_has_no_room_for_run_json_either_does_not_hide_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = run.status_file.read_bytes()

    def fill_the_disk() -> None:
        monkeypatch.setattr(io, "write_json", lambda *_: fail(run, errno.ENOSPC))
        fail(run, errno.ENOSPC)

    with pytest.raises(UserError, match=r"metrics\.csv cannot be written"), run.recorded():
        fill_the_disk()
    assert json.loads(run.status_file.read_bytes())["status"] == json.loads(before)["status"] == "running"
    assert "run.json cannot be written (No space left on device)" in caplog.text


def fail(run: Run, number: int) -> None:
    raise OSError(number, os.strerror(number), str(run.history_file))


def test_worker_processes_of_a_killed_one_are_waited_for(run: Run) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    lock = FileLock(run.folder / "run.lock", thread_local=False)
    lock.acquire()
    run.update(pid=os.getpid())
    assert run.is_alive()  # at once: its process is there
    run.update(pid=ended.pid)
    threading.Timer(0.3, lock.release).start()
    assert not run.is_alive()


def test_whether_a_process_is_alive_is_asked_without_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows os.kill(pid, 0), which psutil calls on Unix alone, ends the process."""
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid == 12345)
    assert run_module._exists(12345)
    assert not run_module._exists(12346)
    assert not run_module._exists(0)


def test_a_run_that_a_process_trains_is_left_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "LOCK_SECONDS", 0.1)
    again = Run.existing(run.folder)
    assert not again.is_alive()
    with run.recorded():
        before = run.status_file.read_bytes()
        assert again.is_alive()
        with pytest.raises(UserError, match="is being trained by another process"):
            Run.resume(run.folder, [])
        with pytest.raises(UserError, match="is being trained by another process"), again.recorded():
            pass
        assert run.status_file.read_bytes() == before
    assert not again.is_alive()


def test_a_run_that_ended_before_its_images_were_listed_says_why(run: Run) -> None:
    run.update(status="failed", error="data.root=x is not a folder")
    with pytest.raises(UserError, match=r"has no catalog.csv.*data.root=x is not a folder"):
        run.catalog()


def test_a_moved_run_is_not_resumed(run: Run, tmp_path: Path) -> None:
    moved = run.folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=f"was {run.folder} when it was started"):
        Run.resume(moved, [])


def test_a_resumed_run_takes_overrides_of_the_trainer_alone(run: Run) -> None:
    _, config = Run.resume(run.folder, [f"resume={run.folder}", "trainer.devices=2"])
    assert config.trainer == {"max_epochs": 5, "devices": 2}
    for foreign in ("seed=4", "trainer=gpu", "trainer.max_epochs=9", "+trainer.x=1", "~trainer.devices"):
        with pytest.raises(UserError, match=r"leave out .*or start a new run") as caught:
            Run.resume(run.folder, [f"resume={run.folder}", foreign])
        assert foreign in str(caught.value)


def test_other_images_than_those_of_the_run_are_refused(run: Run, tmp_path: Path) -> None:
    run.take_catalog(TABLE, tmp_path)
    pd.testing.assert_frame_equal(run.catalog(), TABLE)
    assert run.data_root() == tmp_path
    run.take_catalog(TABLE, tmp_path)
    with pytest.raises(UserError, match="are not those of"):
        run.take_catalog(TABLE.assign(split=["val", "train"]), tmp_path)
    pd.testing.assert_frame_equal(run.catalog(), TABLE)


def test_images_that_have_gone_are_missed(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    run.take_catalog(TABLE, root)
    root.rmdir()
    with pytest.raises(UserError, match=r"say where with data.root="):
        run.data_root()


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"b": object()})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": 1}
    assert list(tmp_path.iterdir()) == [tmp_path / "x.json"]
