"""How long a run trains: budgets in optimizer steps, and the warning of one that learns nothing."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from alu_defects.config import compose
from alu_defects.errors import UserError
from alu_defects.train import train
from alu_defects.training import trainer
from alu_defects.training.callbacks import EpochLines, LearningCheck

CPU: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False, "max_epochs": "auto"}


def create(**options: Any) -> pl.Trainer:
    return trainer.create_trainer({**CPU, **options}, {}, [], nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("images", "options", "epochs"),
    [
        (300, {}, 67),  # 18 whole batches of 16 an epoch, 1200 steps
        (10, {}, 1200),  # one batch, though not a whole one
        (30_000, {}, trainer.MIN_EPOCHS),
        (300, {"accumulate_grad_batches": 4}, 240),  # 5 steps an epoch
        (300, {"limit_train_batches": 2}, 600),
        (300, {"limit_train_batches": 0.5}, 134),
    ],
)
def test_small_and_large_sets_get_enough_steps(images: int, options: dict[str, Any], epochs: int) -> None:
    fit = create(**options)
    trainer.set_epochs(fit, images, batch_size=16, steps=1200)
    assert fit.max_epochs == epochs


def test_epochs_that_are_never_validated_are_an_error() -> None:
    with pytest.raises(UserError, match="check_val_every_n_epoch=90 is above the 67 epochs"):
        trainer.set_epochs(create(check_val_every_n_epoch=90), 300, batch_size=16, steps=1200)


def test_a_run_trains_for_its_steps_and_says_how_long_it_will_take(
    small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [word for word in small if "max_epochs" not in word]
    with caplog.at_level(logging.INFO):
        results = train(compose("train", [*words, "model.steps=7", "data.batch_size=4", f"run_dir={tmp_path}"]))
    assert results["epochs"] == json.loads((tmp_path / "run.json").read_text())["max_epochs"] == trainer.MIN_EPOCHS
    lines = [message for message in caplog.messages if message.startswith("epoch ")]
    assert [" left" in line for line in lines] == [True] * 4 + [False]


def check(
    recalls: list[float], accuracy: float, max_epochs: int = 9, sampler: str = "shuffle"
) -> tuple[LearningCheck, Mock]:
    """The check after epochs with these macro recalls, where training has an accuracy; classes of 60 and 2 × 20."""
    fit = Mock(max_epochs=max_epochs, progress_bar_callback=None, is_global_zero=True, sanity_checking=False)
    fit.datamodule.class_counts = lambda split: [60, 20, 20]
    fit.datamodule.sampler = sampler
    fit.optimizers = [SimpleNamespace(defaults={"lr": 0.004})]
    checked = LearningCheck()
    for epoch, recall in enumerate(recalls, start=1):
        fit.current_epoch = epoch
        fit.callback_metrics = {"val/recall": torch.tensor(recall), "train/accuracy": torch.tensor(accuracy)}
        checked.on_validation_end(fit, Mock())
        checked.on_train_epoch_start(fit, Mock())
    return checked, fit


@pytest.mark.parametrize(
    ("accuracy", "hint"), [(0.6, "optimizer.lr=0.001"), (0.95, "start from trained weights (model.pretrained=auto)")]
)
def test_a_run_that_learns_nothing_says_so_once(accuracy: float, hint: str, caplog: pytest.LogCaptureFixture) -> None:
    check([1 / 3] * 8, accuracy)
    (message,) = caplog.messages
    assert message.startswith("after 3 of 9 epochs the network is no better on val than the majority class")
    assert hint in message


@pytest.mark.parametrize(("recalls", "max_epochs"), [([0.5, 0.3, 0.3, 0.3], 9), ([0.33, 0.33], 2)])
def test_no_warning_of_a_run_that_learns_or_is_short(
    recalls: list[float], max_epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    check(recalls, 0.9, max_epochs)
    assert not caplog.messages


def test_a_resumed_run_remembers_that_it_learned(caplog: pytest.LogCaptureFixture) -> None:
    resume(check([0.6], 0.9)[0])
    assert not caplog.messages


def resume(before: LearningCheck) -> None:
    """Continue after the third of nine epochs, whose metrics are not there any more, with a bad one."""
    resumed, fit = LearningCheck(), check([], 0.9)[1]
    resumed.load_state_dict(before.state_dict())
    fit.current_epoch, fit.callback_metrics = 3, {}
    resumed.on_train_epoch_start(fit, Mock())
    fit.current_epoch, fit.callback_metrics = 4, {"val/recall": torch.tensor(0.3), "train/accuracy": torch.tensor(0.9)}
    resumed.on_validation_end(fit, Mock())
    resumed.on_train_epoch_start(fit, Mock())


def test_a_run_that_resumes_when_it_would_be_checked_is_checked_after_the_next_epoch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    resume(check([0.3, 0.3], 0.9)[0])
    assert caplog.messages[0].startswith("after 4 of 9 epochs")
    assert len(caplog.messages) == 1


def test_with_a_balanced_sampler_the_largest_class_is_one_of_equals(caplog: pytest.LogCaptureFixture) -> None:
    check([1 / 3] * 3, accuracy=0.65, sampler="balanced")
    assert "It learns the training images (accuracy 65%)" in caplog.text


@pytest.mark.slow
def test_a_resumed_run_keeps_its_epochs(small: list[str], tmp_path: Path) -> None:
    words = [word for word in small if "max_epochs" not in word]
    words += ["model.steps=7", "data.batch_size=4", f"run_dir={tmp_path}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearningCheck, "on_validation_end", _interrupt_in_the_second_epoch)
        with pytest.raises(SystemExit):
            train(compose("train", words))
    results = train(compose("train", [f"resume={tmp_path}", "trainer.accumulate_grad_batches=2"]))
    assert results["epochs"] == trainer.MIN_EPOCHS


def _interrupt_in_the_second_epoch(_: LearningCheck, fit: pl.Trainer, __: Any) -> None:
    if fit.current_epoch == 1:
        raise KeyboardInterrupt


def test_the_time_that_is_left_does_not_count_what_an_interrupted_run_did(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([100.0, 160.0])
    monkeypatch.setattr("alu_defects.training.callbacks.time.perf_counter", lambda: next(now))
    fit = Mock(max_epochs=20, current_epoch=10, progress_bar_callback=None, is_global_zero=True)
    fit.callback_metrics = {"val/loss": torch.tensor(1.0)}
    lines = EpochLines()
    lines.on_train_start(fit, Mock())
    fit.current_epoch = 12
    with caplog.at_level(logging.INFO):
        lines.on_train_epoch_start(fit, Mock())
    assert caplog.messages[-1].endswith("0:04:00 left")


def test_a_run_with_a_sanity_check_of_validation_trains(small: list[str], tmp_path: Path) -> None:
    words = [*small, "trainer.max_epochs=1", "trainer.num_sanity_val_steps=1", f"run_dir={tmp_path}"]
    assert train(compose("train", words))["epochs"] == 1
