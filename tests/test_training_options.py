"""Options of training together: through the command line, resumed, and evaluated with flips."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from alu_defects.config import check_settings, compose
from alu_defects.errors import UserError
from alu_defects.evaluate import evaluate
from alu_defects.evaluation.operating import OperatingPoint
from alu_defects.train import train
from alu_defects.training import checkpoint
from alu_defects.training.callbacks import Throughput

ALL = [
    "augment.crop=0.5",
    "augment.blur=1",
    "augment.noise=0.05",
    "augment.erase=0.5",
    "augment.mixup=0.4",
    "augment.cutmix=1",
    "augment.vertical_flip=true",
    "data.sampler=balanced",
    "data.batch_size=4",
    "loss=focal",
    "loss.label_smoothing=0.1",
    "optimizer.layer_decay=0.9",
    "optimizer.decay_norms=false",
    "callbacks=[default,finetuning]",
    "callbacks.finetuning.frozen_epochs=1",
    "callbacks.finetuning.unfreeze_epochs=1",
]


@pytest.fixture(scope="module")
def straight(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options") / "run"
    train(compose("train", [*small, *ALL, f"run_dir={folder}"]))
    return folder


def test_a_resumed_run_with_all_options_ends_with_the_same_bits(
    straight: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Throughput, trainer: Any, pl_module: Any) -> None:
        self.started = self.ended = self.images = 0
        if trainer.current_epoch == 1:
            raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Throughput, "on_train_epoch_start", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            train(compose("train", [*small, *ALL, f"run_dir={tmp_path / 'run'}"]))
    train(compose("train", [f"resume={tmp_path / 'run'}"]))
    states = [
        checkpoint.read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (straight, tmp_path / "run")
    ]
    assert [state["epoch"] for state in states] == [1, 1]
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][name]), name
    history = [pd.read_csv(folder / "metrics.csv") for folder in (straight, tmp_path / "run")]
    assert history[0]["train/loss"].tolist() == history[1]["train/loss"].tolist()
    assert history[0]["train/accuracy"].between(0, 1).all()


def test_evaluation_with_flips_is_the_mean_over_the_views(straight: Path) -> None:
    plain = evaluate(compose("evaluate", [f"run={straight}", "trainer=cpu", "trainer.enable_progress_bar=false"]))
    assert OperatingPoint.load(straight / "operating.json").tta == []
    words = [f"run={straight}", "tta=flip", "trainer=cpu", "trainer.enable_progress_bar=false"]
    flipped = evaluate(compose("evaluate", words))
    point = OperatingPoint.load(straight / "operating.json")
    assert point.tta == ["horizontal_flip", "vertical_flip"]
    assert "flips (horizontal_flip, vertical_flip)" in flipped["note"]
    assert plain["test"]["loss"] != flipped["test"]["loss"]
    tables = [pd.read_csv(straight / "evaluation" / name / "predictions.csv") for name in ("test", "test_flip")]
    assert tables[0]["path"].tolist() == tables[1]["path"].tolist()
    probabilities = tables[1].filter(like="probability_").to_numpy()
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert json.loads((straight / "evaluation" / "test_flip" / "metrics.json").read_text())["note"] == flipped["note"]
    classifier = checkpoint.load_classifier(straight / "checkpoints" / "best.ckpt")
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    batch: Any = {"image": images, "index": torch.arange(3)}
    with torch.no_grad():
        views = [images, images.flip(3), images.flip(2), images.flip(2, 3)]
        expected = torch.stack([classifier(view).softmax(1) for view in views]).mean(0)
        classifier.tta = point.tta
        _, logits = classifier.predict_step(batch, 0)
    torch.testing.assert_close(logits.softmax(1), expected)


def test_flips_that_a_run_was_not_trained_with_are_an_error(straight: Path) -> None:
    config = compose("evaluate", [f"run={straight}", "tta=flip"])
    settings = straight / "config.yaml"
    text = settings.read_text(encoding="utf-8")
    off = text.replace("horizontal_flip: true", "horizontal_flip: false")
    settings.write_text(off.replace("vertical_flip: true", "vertical_flip: false"), encoding="utf-8")
    try:
        with pytest.raises(UserError, match=r"tta=flip: the run was trained without flips .*; give tta=none"):
            evaluate(config)
    finally:
        settings.write_text(text, encoding="utf-8")


def test_rare_classes_are_not_balanced_twice(small: list[str], tmp_path: Path) -> None:
    words = [*small, "data.sampler=balanced", "loss.class_weights=balanced", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(UserError, match=r"data.sampler=balanced with loss.class_weights=balanced .*; take one of them"):
        train(compose("train", words))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("augment.crop=0", "augment.crop=0 must be from 0.01 to 1"),
        ("augment.blur=-1", "augment.blur=-1 must be from 0 to 10"),
        ("augment.noise=2", "augment.noise=2 must be from 0 to 1"),
        ("augment.erase=yes", "augment.erase=.* is not a number"),
        ("augment.mixup=-0.1", "augment.mixup=-0.1 must be 0 or more"),
        ("augment.cutmix=a", "augment.cutmix=a is not a number"),
        ("data.sampler=balance", r"data.sampler=balance does not exist; did you mean balanced\?"),
    ],
)
def test_wrong_values_are_errors(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_settings(compose("train", [word]))
