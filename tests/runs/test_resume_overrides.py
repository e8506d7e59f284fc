"""Resuming: from another working directory, and with words that the run was started with."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import DictConfig

from alu_defects import train as verb
from alu_defects.config import absolute_paths, compose, plain
from alu_defects.errors import UserError
from alu_defects.runs.resume import changing_overrides
from alu_defects.runs.run import Run

OWN = ["experiment=paper", "data.root=photos", "model.drop_rate=0.3"]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that the command line started in the folder above it."""
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return Run.create(folder / "run", absolute_paths(compose("train", [*OWN, "run_dir=run"])), OWN)


@pytest.fixture(scope="module")
def started_from_python(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Its words are not known."""
    folder = tmp_path_factory.mktemp("python")
    return Run.create(folder, compose("train", ["model=xception", "optimizer.lr=0.01", f"run_dir={folder}"]), [])


@pytest.mark.parametrize(
    "words",
    [
        [*OWN, "run_dir=run"],
        ["model=inceptionv4_scse", "data=tianchi", "optimizer=sgd", "optimizer.momentum=0.9", "optimizer.lr=1e-3"],
        ["trainer.max_epochs=50", "callbacks=[default]", "++seed=0", "split.val_fraction=0", "model.weights=null"],
    ],
)
def test_words_that_change_nothing_are_accepted(started, monkeypatch, words):
    monkeypatch.chdir(started.folder.parent)
    assert changing_overrides(started, words) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([OWN[0], OWN[2], "seed=1"], ["seed=1"]),
        (["model=xception", "data=tianchi"], ["model=xception"]),
        (["model=inceptionv4_scse", "model.drop_rate=0.0"], ["model.drop_rate=0.0"]),
        (["data.root=./photos"], ["data.root=./photos"]),  # typed elsewhere
        (["seed=2", "seed=1", "seed=0"], []),  # the last one counts
        (["seed=1", "seed=2"], ["seed=2"]),
        (["experiment=quickstart", "loss=cross_entropy"], ["experiment=quickstart"]),
        (["sweep=kfold", "augment=none"], ["sweep=kfold"]),
        (["callbacks=[default,ema]"], ["callbacks=[default,ema]"]),
        (["+optimizer.nesterov=true"], ["+optimizer.nesterov=true"]),
        (["~callbacks.dashboard", "~debug"], ["~callbacks.dashboard"]),
        (["trainer.max_epochs=51"], ["trainer.max_epochs=51"]),
    ],
)
def test_words_that_change_something_are_named_alone(started, words, named):
    assert changing_overrides(started, words) == named


def test_the_words_of_the_start_change_nothing_in_another_folder(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert changing_overrides(started, OWN) == []
    assert changing_overrides(started, [*OWN, "seed=1"]) == ["seed=1"]


def test_a_word_that_the_start_replaced_itself_changes_something(tmp_path):
    own = ["seed=1", "seed=2"]
    run = Run.create(tmp_path / "run", compose("train", own), own)
    assert changing_overrides(run, ["seed=1"]) == ["seed=1"]
    assert changing_overrides(run, own) == []


def test_words_are_compared_with_what_a_run_from_python_has(started_from_python):
    for word in ("model=xception", "optimizer.lr=0.01", "scheduler=one_cycle"):
        assert changing_overrides(started_from_python, [word]) == []
    for word in ("model=shufflenet", "optimizer.lr=0.002", "experiment=quickstart"):
        assert changing_overrides(started_from_python, [word]) == [word]


def test_settings_of_a_network_that_another_has_not_do_not_hide_what_is_wrong(tmp_path):
    own = ["model=shufflenet", "model.width=0.5"]
    run = Run.create(tmp_path / "run", compose("train", own), own)
    with pytest.raises(UserError, match="leave out model=xception, or start a new run"):
        Run.resume(run.folder, ["model=xception", "model.width=0.5", f"resume={run.folder}"])


def interrupt(*_: object) -> None:
    raise SystemExit(1)


def list_images(config: DictConfig, run: Run, started: float) -> dict[str, Any]:
    table = verb._data(plain(config)).catalog
    assert Path(config.run_dir) == run.folder
    print(f"{(table['split'] == 'test').sum()} of {len(table)} are for test")
    return {"val": {"f1": 0.0}}


def test_a_run_is_resumed_from_another_working_directory(typed, small, photographs, tmp_path, monkeypatch):
    here, there = tmp_path / "here it's (ü)", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    shutil.copytree(photographs, here / "photos, 2018")
    split = pd.DataFrame({"path": sorted(p.relative_to(photographs).as_posix() for p in photographs.rglob("*.png"))})
    split.assign(split=["train", "train", "val", "test"] * 9).to_csv(here / "split.csv", index=False)
    words = [word for word in small if not word.startswith(("data.root=", "trainer.max_epochs="))]
    words += ["data.root=photos, 2018", "split=file", "split.file=split.csv", "trainer.max_epochs=1"]
    words += ["paths.runs=runs", "paths.cache=cache"]
    with monkeypatch.context() as patch:
        patch.setattr(verb, "_train", interrupt)
        assert typed("train", *words, "resume=auto", cwd=here).returncode == 1
    (folder,) = (here / "runs").iterdir()
    status = json.loads((folder / "run.json").read_text())
    assert status["command"] == ["alu-train", *words, "resume=auto"]
    assert "data.root='photos, 2018'" in status["overrides"]
    config = Run(folder).config()
    assert config.data.root == str(here / "photos, 2018")
    assert config.data.cache_dir == str(here / "cache" / "pixels")
    assert config.split.file == str(here / "split.csv")
    assert config.callbacks.best.dirpath == str(folder / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr(verb, "_train", interrupt)
        assert typed("train", *words, "resume=auto", cwd=here).returncode == 1  # finds it
    assert len(Run(folder).status()["resumed"]) == 1
    with monkeypatch.context() as patch:
        patch.setattr(verb, "_train", list_images)
        done = typed("train", f"resume={folder}", "model=shufflenet", "data=folder", "seed=0", cwd=there)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "9 of 36 are for test"
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert Run(folder).status()["settings"] == status["settings"]  # a sweep may still take it for one of its jobs
    assert list((here / "runs").iterdir()) == [folder]
    assert not list(there.iterdir())
