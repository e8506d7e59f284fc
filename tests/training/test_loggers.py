"""Loggers that a configuration names."""

import importlib.util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from alu_defects.config import compose, plain
from alu_defects.errors import UserError
from alu_defects.train import train
from alu_defects.training import trainer


def created(folder: Path, *words: str, first_epoch: int = 0) -> list[Any]:
    return trainer.create_loggers(plain(compose("train", words).logger), folder, first_epoch)


def test_each_logger_writes_into_its_folder_in_the_run(tmp_path: Path) -> None:
    tensorboard, csv = created(tmp_path, "logger=[tensorboard,csv]", first_epoch=3)
    assert isinstance(tensorboard, TensorBoardLogger)
    assert Path(tensorboard.log_dir) == tmp_path / "tensorboard"
    assert tensorboard._kwargs["purge_step"] == 3
    assert isinstance(csv, CSVLogger)
    assert Path(csv.log_dir) == tmp_path / "csv" / "version_0"


def test_options_and_folders_can_be_given(tmp_path: Path) -> None:
    (logger,) = created(tmp_path, f"+logger.tensorboard.save_dir={tmp_path / 'elsewhere'}")
    assert Path(logger.log_dir) == tmp_path / "elsewhere"
    assert created(tmp_path, "logger.tensorboard=null") == []


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_package_is_an_error_with_its_extra(tmp_path: Path, name: str) -> None:
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(UserError, match=rf"logger={name}: .*pip install 'alu-defects\[{name}\]'"):
        created(tmp_path, f"logger=[{name}]")


def test_other_classes_and_unknown_options_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"_target_=os.system may not be instantiated"):
        created(tmp_path, "logger.tensorboard._target_=os.system")
    with pytest.raises(UserError, match=r"CSVLogger cannot be made .*flush"):
        created(tmp_path, "logger=csv", "+logger.csv.flush=1")


def test_run_without_tensorboard_has_its_history(small: list[str], tmp_path: Path) -> None:
    train(compose("train", [*small, "logger=[csv]", f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run" / "tensorboard").exists()
    history = pd.read_csv(tmp_path / "run" / "metrics.csv")
    table = pd.read_csv(tmp_path / "run" / "csv" / "version_0" / "metrics.csv")
    assert table["val/f1"].dropna().tolist() == pytest.approx(history["val/f1"].tolist())
