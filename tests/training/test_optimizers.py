"""Optimizers that a configuration names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alu_defects.benchmarking.training import create_step
from alu_defects.config import compose, plain
from alu_defects.errors import UserError
from alu_defects.train import train
from alu_defects.training import accumulation, optimization
from alu_defects.training.module import Classifier

RMSPROP = "optimizer._target_=torch.optim.RMSprop"


def made(*words: str) -> torch.optim.Optimizer:
    options: dict[str, Any] = plain(compose("train", words).optimizer)
    return optimization.create_optimizer(options, nn.Linear(2, 2).parameters())


def test_fused_is_ignored_where_the_optimizer_has_no_such_option() -> None:
    rmsprop = made("optimizer=adamw", RMSPROP)
    assert type(rmsprop) is torch.optim.RMSprop
    assert rmsprop.defaults["weight_decay"] == 0.05
    assert type(made("optimizer=adamw", "optimizer._target_=timm.optim.Lamb")).__name__ == "Lamb"
    assert made("optimizer=adamw").defaults["fused"] is True
    assert made("optimizer=adamw", "optimizer.fused=false").defaults["fused"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optimizer=sgd", "optimizer._target_=torch.optim.Adam"],
            r"^optimizer.momentum=0.9: torch.optim.Adam has no such option. Remove it with ~optimizer.momentum$",
        ),
        (
            ["optimizer=adamw", "optimizer._target_=torch.optim.LBFGS"],
            r"^optimizer.weight_decay=0.05: torch.optim.LBFGS has no such option",
        ),
        (["optimizer=adamw", "+optimizer.weight_decai=1"], r"weight_decai=1: .* did you mean weight_decay\?"),
        (["optimizer=adamw", "optimizer.lr=-1"], r"torch.optim.AdamW cannot be made .*Invalid learning rate: -1"),
        (["optimizer._target_=torch.optim.Nothing"], r"torch.optim.Nothing does not exist"),
        (["optimizer._target_=os.getcwd"], r"_target_=os.getcwd may not be instantiated"),
    ],
)
def test_unknown_options_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(*words)


def test_another_optimizer_works_in_train_trial_step_and_benchmark(small: list[str], tmp_path: Path) -> None:
    words = [*small, "optimizer=adamw", RMSPROP, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]
    train(compose("train", words))
    options: dict[str, Any] = plain(compose("train", words))
    classifier = Classifier(
        model={"name": "shufflenet", "width": 0.5},
        classes=["a", "b"],
        class_counts=[1, 1],
        image_size=32,
        **{name: options[name] for name in ("loss", "optimizer", "scheduler")},
    )
    accumulation.trial_step(classifier, (32, 32), torch.device("cpu"), autocast=None)(2)
    batch: Any = {"image": torch.zeros(2, 3, 32, 32), "label": torch.zeros(2, dtype=torch.int64)}
    create_step(lambda batch: classifier(batch["image"]), classifier, "32-true", fused=False)(batch)
