"""Runs and sweeps that start in the same moment, each in a folder of its own."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from alu_defects import io
from alu_defects.config import compose
from alu_defects.errors import UserError
from alu_defects.io import claim_folder
from alu_defects.runs.run import Run
from alu_defects.runs.sweep_callback import SweepCallback

# waits for the starting signal, so that all claim at once
START = """
import sys, time
from pathlib import Path
from alu_defects.config import compose
from alu_defects.runs.run import Run
from omegaconf import OmegaConf
seed, runs, go, way = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
config = compose("train", [f"seed={seed}", "resume=null"])
config.run_dir = str(runs / "2026-11-27_10-00-00_shufflenet")
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
print(Run.create(Path(config.run_dir), config, [], claim=way == "claim").folder.name)
"""


def start_together(tmp_path: Path, way: str, processes: int = 8) -> list[tuple[int, str]]:
    """Exit code and folder of each process."""
    go = tmp_path / "go"
    command = [sys.executable, "-c", START]
    started = [
        subprocess.Popen(
            [*command, str(seed), str(tmp_path / "runs"), str(go), way],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    with ThreadPoolExecutor() as pool:
        outputs = list(pool.map(lambda process: process.communicate()[0], started))
    return [(process.returncode, output.strip()) for process, output in zip(started, outputs, strict=True)]


@pytest.mark.slow
def test_eight_runs_that_start_at_once_have_eight_folders_each_with_its_own_settings(tmp_path: Path) -> None:
    found = start_together(tmp_path, "claim")
    assert [code for code, _ in found] == [0] * 8
    assert len({name for _, name in found}) == 8
    for seed, (_, name) in enumerate(found):
        run = Run.existing(tmp_path / "runs" / name)
        assert run.config().seed == run.status()["seed"] == seed
        assert run.config().callbacks.best.dirpath == str(run.checkpoints)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_of_eight_runs_with_the_same_run_dir_one_gets_it(tmp_path: Path) -> None:
    found = start_together(tmp_path, "given")
    (winner,) = [seed for seed, (code, _) in enumerate(found) if code == 0]
    run = Run.existing(next((tmp_path / "runs").iterdir()))
    assert run.config().seed == run.status()["seed"] == winner


def test_a_folder_that_is_claimed_is_left_alone(tmp_path: Path) -> None:
    assert [claim_folder(tmp_path / "a" / "run").name for _ in range(3)] == ["run", "run_2", "run_3"]


def test_a_run_dir_with_settings_of_another_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 7\n")
    with pytest.raises(UserError, match=r"holds a config\.yaml without a run\.json.* remove .*config\.yaml"):
        Run.create(tmp_path, compose("train", [f"run_dir={tmp_path}"]), [])
    assert (tmp_path / "config.yaml").read_text() == "seed: 7\n"


def test_sweeps_that_start_in_the_same_second_have_a_folder_each(tmp_path: Path) -> None:
    sweep = {"dir": "${paths.runs}/2026_sweep"}
    for name in ("2026_sweep", "2026_sweep_2"):
        config = OmegaConf.create(
            {"paths": {"runs": str(tmp_path)}, "hydra": {"sweep": dict(sweep), "overrides": {"hydra": []}}}
        )
        SweepCallback().on_multirun_start(config)
        assert config.hydra.sweep.dir == str(tmp_path / name)
        assert config.hydra.overrides.hydra == [f"hydra.sweep.dir={tmp_path / name}"]


def test_what_killed_writers_left_is_removed_when_a_run_resumes(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", compose("train", [f"run_dir={tmp_path / 'run'}"]), [])
    run.checkpoints.mkdir()
    left = [run.checkpoints / "last.ckpt.7-abc.part", run.folder / "run.json.7-abc.part"]
    for file in left:
        file.write_bytes(b"half")
    with run.recorded():
        assert not any(file.exists() for file in left)


def test_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with io.atomic_write(path) as first:
        first.write(b"1" * 100)
        with io.atomic_write(path) as second:
            second.write(b"2")
        assert path.read_bytes() == b"2"
    assert path.read_bytes() == b"1" * 100
