"""The trainer that a configuration asks for, or why there is none."""

import re
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar
from torch import nn

from alu_defects.errors import UserError
from alu_defects.learning import trainer

CPU: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "enable_checkpointing": False}
CALLBACKS = {
    "bar": {"_target_": "alu_defects.learning.callbacks.ProgressBar"},
    "stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/f1"},
    "off": None,
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_missed(accelerator: str) -> None:
    with pytest.raises(UserError, match="there is no GPU that PyTorch can use; trainer=auto"):
        create({**CPU, "accelerator": accelerator})


def create(options: dict[str, Any], callbacks: dict[str, Any] | None = None) -> pl.Trainer:
    return trainer.create(options, callbacks or {}, [], nn.Linear(2, 2))


def test_what_is_automatic_can_be_chosen() -> None:
    automatic = create({**CPU, "precision": "auto", "benchmark": "auto", "accumulate_grad_batches": "auto"})
    assert (automatic.precision, automatic.accumulate_grad_batches) == ("32-true", 1)
    chosen = create({**CPU, "precision": "bf16-mixed", "accumulate_grad_batches": 3})
    assert (chosen.precision, chosen.accumulate_grad_batches) == ("bf16-mixed", 3)


@pytest.mark.parametrize("deterministic", [True, False])
def test_convolutions_are_tried_unless_they_must_be_deterministic(deterministic: bool) -> None:
    before = torch.backends.cudnn.benchmark
    try:
        create({**CPU, "benchmark": "auto", "deterministic": deterministic})
        assert torch.backends.cudnn.benchmark is not deterministic
    finally:
        torch.backends.cudnn.benchmark = before
        torch.use_deterministic_algorithms(False)


def test_compiling_is_for_gpus_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "some-compiler")
    assert trainer.compiles(True, CPU)
    assert not trainer.compiles(False, CPU)
    assert not trainer.compiles("auto", CPU)
    with pytest.raises(UserError, match="compile=yes is not true, false or auto"):
        trainer.compiles("yes", CPU)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="compile=True needs a C\\+\\+ compiler"):
        trainer.compiles(True, CPU)


def test_callbacks_are_made_without_those_that_are_null_and_without_bars_if_none_is_wanted() -> None:
    kinds = {type(c).__name__ for c in create(CPU, CALLBACKS).callbacks}  # type: ignore[attr-defined]
    assert {"ProgressBar", "EarlyStopping"} <= kinds
    quiet = create({**CPU, "enable_progress_bar": False}, CALLBACKS).callbacks  # type: ignore[attr-defined]
    assert any(isinstance(c, EarlyStopping) for c in quiet)
    assert not any(isinstance(c, ProgressBar) for c in quiet)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_epoch": 3}, "max_epoch"),
        ({"precision": "float7"}, "float7"),
        ({"strategy": "nonsense"}, "nonsense"),
        ({"accelerator": "abacus"}, "abacus"),
        ({"limit_train_batches": -3}, "limit_train_batches"),
        ({"devices": 0}, "devices"),
    ],
)
def test_options_that_lightning_does_not_take_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"trainer: .*{named}"):
        create({**CPU, **options})


def test_a_callback_with_a_wrong_option_or_from_elsewhere_is_refused() -> None:
    with pytest.raises(UserError, match=r"EarlyStopping cannot be made .*patienc\b"):
        create(CPU, {"stop": {**CALLBACKS["stop"], "patienc": 3}})  # type: ignore[dict-item]
    for target in (
        "os.getcwd",
        "alu_defects.learning.run.os.getcwd",
        "alu_defects.learning.run.Path",
        "lightning.pytorch.cli.instantiate_class",
        "timm.models._hub.download_url_to_file",
        "timmy.x",
        "torch.optim.SGD",
    ):
        with pytest.raises(UserError, match=f"_target_={re.escape(target)} may not be instantiated"):
            create(CPU, {"x": {"_target_": target, "args": "true", "init": {"class_path": "os.system"}}})


def test_a_run_that_goes_on_keeps_its_precision_unless_another_is_asked_for() -> None:
    before = {"precision": "bf16-mixed"}
    assert trainer.as_before({"precision": "auto"}, before) == before
    assert trainer.as_before({"precision": "32-true"}, before) == {"precision": "32-true"}
    assert trainer.as_before({"precision": "auto"}, {}) == {"precision": "auto"}


class Data:
    """What `fit_batch` needs of the data."""

    def __init__(self) -> None:
        self.batch_size, self.image_size = 100, 32


@pytest.mark.parametrize(("parts", "count", "size"), [(None, 1, 100), (1, 1, 100), (8, 8, 13)])
def test_a_run_that_goes_on_has_the_parts_it_was_begun_with(parts: int | None, count: int, size: int) -> None:
    data, fit = Data(), create(CPU)
    trainer.fit_batch(fit, None, data, parts)  # type: ignore[arg-type]
    assert (fit.accumulate_grad_batches, data.batch_size) == (count, size)
