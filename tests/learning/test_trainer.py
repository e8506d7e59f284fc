"""The trainer that a configuration asks for, or why there is none."""

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar

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
        trainer.create({**CPU, "accelerator": accelerator}, {}, [])


def test_automatic_precision_on_the_cpu_is_full() -> None:
    assert trainer.create({**CPU, "precision": "auto"}, {}, []).precision == "32-true"
    assert trainer.create({**CPU, "precision": "bf16-mixed"}, {}, []).precision == "bf16-mixed"


def test_callbacks_are_made_without_those_that_are_null_and_without_bars_if_none_is_wanted() -> None:
    kinds = {type(c).__name__ for c in trainer.create(CPU, CALLBACKS, []).callbacks}  # type: ignore[attr-defined]
    assert {"ProgressBar", "EarlyStopping"} <= kinds
    quiet = trainer.create({**CPU, "enable_progress_bar": False}, CALLBACKS, []).callbacks  # type: ignore[attr-defined]
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
        trainer.create({**CPU, **options}, {}, [])


def test_a_callback_with_a_wrong_option_or_from_elsewhere_is_refused() -> None:
    with pytest.raises(UserError, match=r"EarlyStopping cannot be made .*patienc\b"):
        trainer.create(CPU, {"stop": {**CALLBACKS["stop"], "patienc": 3}}, [])  # type: ignore[dict-item]
    with pytest.raises(UserError, match=r"_target_=os\.getcwd may not be instantiated"):
        trainer.create(CPU, {"x": {"_target_": "os.getcwd"}}, [])
