"""Losses that are no numbers."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from alu_defects.config import compose
from alu_defects.errors import UserError
from alu_defects.train import train
from alu_defects.training import callbacks
from alu_defects.training.module import Classifier


@pytest.fixture
def words(small: list[str], tmp_path: Path) -> list[str]:
    return [*small, "data.batch_size=4", "trainer.max_epochs=3", f"run_dir={tmp_path / 'run'}"]


def spoil(monkeypatch: pytest.MonkeyPatch, *where: tuple[int, int], stage: str = "training") -> None:
    """Let the logits of some batches, by epoch and number, be NaN, with what batch normalisation sees."""
    step, forward = getattr(Classifier, f"{stage}_step"), Classifier.forward

    def spoiled(self: Classifier, batch: dict[str, Tensor], batch_idx: int) -> Any:
        bad = (self.current_epoch, batch_idx) in where
        factor = math.nan if bad else 1.0
        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "forward", lambda self, images: forward(self, images * factor))
            batch["image"] = batch["image"].float() / (255 if batch["image"].dtype == torch.uint8 else 1)
            return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, f"{stage}_step", spoiled)


@pytest.mark.parametrize("interval", [1, 20])
def test_nonfinite_loss_stops_before_a_checkpoint(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: int
) -> None:
    """Steps that are looked at together, as on a GPU, name the first bad one."""
    spoil(monkeypatch, (1, 2), (1, 3))
    if interval > 1:
        monkeypatch.setattr(callbacks, "_steps_between_checks", lambda loss: interval)
    with pytest.raises(UserError, match=r"the training loss is nan in epoch 2, batch 3 of 6; .*on_nonfinite=skip"):
        train(compose("train", words))
    run = tmp_path / "run"
    status = json.loads((run / "run.json").read_text())
    assert status["status"] == "failed"
    assert "epoch 2, batch 3 of 6" in status["error"]
    catalog = pd.read_csv(run / "catalog.csv")
    named = [path for path in catalog["path"] if path in status["error"]]
    assert len(named) == 4
    assert set(catalog.set_index("path").loc[named, "split"]) == {"train"}
    for name in ("best", "last"):
        content = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert content["epoch"] == 0
        assert all(value.isfinite().all() for value in content["state_dict"].values())


def test_nonfinite_validation_loss_stops_before_a_checkpoint(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, (1, 0), stage="validation")
    with pytest.raises(UserError, match="the validation loss is nan in epoch 2"):
        train(compose("train", words))
    for name in ("best", "last"):
        assert torch.load(tmp_path / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"] == 0


def test_skipped_steps_change_nothing_and_are_counted(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(monkeypatch, (0, 1), (1, 2))
    train(compose("train", [*words, "on_nonfinite=skip", "scheduler=none"]))
    history = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert history["train/skipped_steps"].tolist() == [1, 2, 2]
    assert history.notna().all(axis=None)
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["skipped_steps"] == 2
    assert all(value.isfinite().all() for value in content["state_dict"].values())
    (state, *_) = content["optimizer_states"][0]["state"].values()
    assert state["step"] == 3 * 6 - 2
    batches = content["state_dict"]["backbone.conv1.1.num_batches_tracked"]
    assert batches == 3 * 6 - 2  # batch normalisation has not seen them
    assert "epoch 1, batch 2 of 6: the training loss is nan, step skipped" in caplog.text


def test_too_many_skipped_steps_are_an_error(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, *((1, batch) for batch in range(6)))
    with pytest.raises(UserError, match=r"in epoch 2, batch 4 of 6, not finite for the 4. time, and max_nonfinite=3"):
        train(compose("train", [*words, "on_nonfinite=skip", "max_nonfinite=3"]))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("on_nonfinite=skipp", "on_nonfinite=skipp does not exist; did you mean skip?"),
        ("max_nonfinite=-1", "max_nonfinite=-1 must be 0 or more"),
    ],
)
def test_invalid_settings_are_errors(words: list[str], word: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        train(compose("train", [*words, word]))
    assert message in str(caught.value)
