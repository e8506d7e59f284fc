"""Finetuning: the new classifier is trained first, then the whole network."""

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from alu_defects.config import compose
from alu_defects.errors import UserError
from alu_defects.runs import sweep
from alu_defects.runs.run import Run
from alu_defects.train import train
from alu_defects.training import checkpoint, trainer
from alu_defects.training.callbacks import Finetuning
from alu_defects.training.module import Classifier

FROZEN = 2
CPU: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False}
ADAMW = {"_target_": "torch.optim.AdamW", "lr": 0.01, "weight_decay": 0.5, "fused": True}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.5, "fused": True}
ONE_CYCLE = {"_target_": "alu_defects.training.optimization.OneCycle"}
COSINE = {"_target_": "alu_defects.training.optimization.WarmupCosine", "warmup_epochs": 1.0, "final_fraction": 0.1}
FINETUNING = {"_target_": "alu_defects.training.callbacks.Finetuning", "frozen_epochs": FROZEN}
State = dict[str, Tensor]


def classifier(model: dict[str, Any], optimizer: dict[str, Any], scheduler: dict[str, Any]) -> Classifier:
    torch.manual_seed(0)
    options = {
        "classes": ["a", "b", "c"],
        "class_counts": [1, 1, 1],
        "image_size": 32,
        "loss": {"_target_": "alu_defects.training.losses.CrossEntropy"},
    }
    return Classifier(model=model, optimizer=optimizer, scheduler=scheduler, **options)  # type: ignore[arg-type]


def batches() -> "DataLoader[Any]":
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=random) for _ in range(3)]
    rows = [{"image": p, "label": torch.tensor([0, 1, 2, 0]), "index": torch.arange(4)} for p in images]
    return DataLoader(rows, batch_size=None)  # type: ignore[arg-type]


class States(pl.Callback):
    """Keeps the weights and statistics of every epoch."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        backbone: Any = pl_module.backbone
        self.states.append({name: value.clone() for name, value in backbone.state_dict().items()})


def fit(module: Classifier, callbacks: dict[str, Any], *more: pl.Callback, ckpt_path: Path | None = None) -> pl.Trainer:
    options = {**CPU, "max_epochs": FROZEN + 2, "num_sanity_val_steps": 0}
    made = trainer.create_trainer({**options, "enable_checkpointing": False}, callbacks, [], module.backbone)
    made.callbacks += more  # type: ignore[attr-defined]
    made.fit(module, batches(), batches(), ckpt_path=ckpt_path, weights_only=True)
    return made


def changed(before: State, after: State) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("model", "head"),
    [
        ({"name": "shufflenet", "width": 0.5}, ("fc.",)),
        ({"name": "timm/deit_tiny_distilled_patch16_224", "depth": 2}, ("head.", "head_dist.")),
    ],
)
@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [
        (ADAMW, ONE_CYCLE),
        (ADAMW, COSINE),
        (SGD, {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.5, "interval": "epoch"}),
        (SGD, {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0, "interval": "epoch"}),
    ],
)
def test_classifier_learns_alone_then_the_whole_network(
    model: dict[str, Any], head: tuple[str, ...], optimizer: dict[str, Any], scheduler: dict[str, Any]
) -> None:
    module, states = classifier(model, optimizer, scheduler), States()
    start = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    names = {name for name in start if name.startswith(head)}
    fit(module, {"finetuning": FINETUNING}, states)
    for number in range(FROZEN):
        assert changed(start, states.states[number]) == names
        start |= {name: states.states[number][name] for name in names}
    assert changed(states.states[FROZEN - 1], states.states[FROZEN]) == set(start)  # statistics, too


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(("finished", "optimizer"), [(1, ADAMW), (FROZEN, ADAMW), (FROZEN, SGD), (FROZEN + 1, ADAMW)])
def test_resumed_run_ends_with_the_same_bits(tmp_path: Path, finished: int, optimizer: dict[str, Any]) -> None:
    """It was interrupted within the frozen epochs, between them and the others, or later."""
    callbacks = {
        "finetuning": FINETUNING,
        "ema": {"_target_": "alu_defects.training.callbacks.EMA", "decay": 0.9},
        "stop": {"_target_": "alu_defects.training.callbacks.EarlyStopping", "monitor": "val/loss", "patience": 10},
    }
    keep = {"filename": "{epoch}", "save_top_k": -1, "every_n_epochs": 1, "save_on_train_epoch_end": True}
    ends = []
    for folder, path in (("straight", None), ("resumed", tmp_path / "straight" / f"epoch={finished - 1}.ckpt")):
        module = classifier({"name": "shufflenet", "width": 0.5}, optimizer, ONE_CYCLE)
        fit(module, callbacks, ModelCheckpoint(tmp_path / folder, **keep), ckpt_path=path)  # type: ignore[arg-type]
        content = checkpoint.read_checkpoint(tmp_path / folder / f"epoch={FROZEN + 1}.ckpt")
        ends.append(tree_leaves({key: value for key, value in content.items() if key not in ("callbacks", "loops")}))
    assert len(list((tmp_path / "resumed").iterdir())) == FROZEN + 2 - finished
    for found, wanted in zip(*ends, strict=True):
        assert torch.equal(found, wanted) if isinstance(wanted, Tensor) else found == wanted


def test_layers_join_from_the_classifier_down() -> None:
    module, states = classifier({"name": "shufflenet", "width": 0.5}, SGD, ONE_CYCLE), States()
    start = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    fit(module, {"finetuning": {**FINETUNING, "frozen_epochs": 1, "unfreeze_epochs": 2}}, states)
    units = [f"stage{stage}.{unit}" for stage, number in ((4, 4), (3, 8), (2, 4)) for unit in reversed(range(number))]
    layers = ["fc", "conv5", *units, "conv1"]
    for learning, before, after in zip((1, 7, 13, 19), [start, *states.states], states.states, strict=False):
        learnt = {re.match(r"stage\d\.\d|\w+", name)[0] for name in changed(before, after)}  # type: ignore[index]
        assert learnt == set(layers[:learning])


@pytest.mark.parametrize(
    ("epochs", "frozen", "fix"),
    [
        (1, 2, "give trainer.max_epochs=3 or more (frozen_epochs=all,"),
        (2, 2, "give trainer.max_epochs=3 or more, or callbacks.finetuning.frozen_epochs=1 (frozen_epochs=all,"),
        (3, 2, None),
        (1, "all", None),
        (-1, 2, None),
    ],
)
def test_a_network_that_is_never_trained_is_a_warning(
    epochs: int, frozen: int | str, fix: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    module = classifier({"name": "shufflenet", "width": 0.5}, ADAMW, ONE_CYCLE)
    Finetuning(frozen).on_fit_start(pl.Trainer(max_epochs=epochs, logger=False, **CPU), module)
    assert (fix in caplog.text) if fix else not caplog.records


def test_frozen_throughout_no_gradient_is_computed() -> None:
    module, states = classifier({"name": "shufflenet", "width": 0.5}, ADAMW, ONE_CYCLE), States()
    start = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    made = fit(module, {"finetuning": {**FINETUNING, "frozen_epochs": "all"}}, states)
    assert changed(start, states.states[-1]) == {"fc.weight", "fc.bias"}
    assert {name for name, weight in module.named_parameters() if weight.requires_grad} == {
        "backbone.fc.weight",
        "backbone.fc.bias",
    }
    assert len(made.optimizers[0].state) == 2


def test_unfreeze_epochs_that_cannot_work_are_errors() -> None:
    with pytest.raises(UserError, match=r"unfreeze_epochs=2 has no use with frozen_epochs=all; give 0"):
        Finetuning("all", 2)
    for wrong in (-1, 0.5, "all"):
        with pytest.raises(UserError, match=f"unfreeze_epochs={wrong} must be a whole number from 0 on"):
            Finetuning(1, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("frozen_epochs", [0, -1, 1.5, None, True, "al"])
def test_invalid_frozen_epochs_are_errors(frozen_epochs: Any) -> None:
    with pytest.raises(UserError, match=f"frozen_epochs={frozen_epochs} must be a whole number from 1 on, or all"):
        Finetuning(frozen_epochs)


def checked(*words: str) -> None:
    config: Any = compose("train", words)
    trainer.check_trainer(config.trainer, config.callbacks)


@pytest.mark.parametrize("module", ["lightning.pytorch.callbacks", "lightning.pytorch.callbacks.finetuning"])
def test_lightnings_backbone_finetuning_is_an_error(module: str) -> None:
    with pytest.raises(UserError, match=r"callbacks.x._target_=.* give callbacks=\[default,finetuning\] instead"):
        checked(f"+callbacks.x._target_={module}.BackboneFinetuning")


def test_finetuning_in_several_processes_is_an_error() -> None:
    checked("callbacks=[default,finetuning]")
    with pytest.raises(UserError, match=r"callbacks.finetuning works in one process.*remove trainer=ddp"):
        checked("callbacks=[default,finetuning]", "trainer=ddp")


def test_run_starts_from_the_weights_of_another_run(
    small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Given by the folder of a job that points to it; nothing but the classifier has learnt in frozen epochs."""
    words = [*small, "trainer.max_epochs=1", f"paths.runs={tmp_path}"]
    first, second = Run(tmp_path / "first"), Run(tmp_path / "second")
    train(compose("train", [*words, f"run_dir={first.folder}"]))
    sweep.point_to_run(tmp_path / "job", first, [])
    more = [f"model.weights={tmp_path / 'job'}", "callbacks=[default,finetuning]", f"run_dir={second.folder}"]
    with caplog.at_level("INFO", logger="alu_defects"):
        train(compose("train", [*words, *more]))
    assert "tensors were loaded; its classifier was loaded" in caplog.text
    before, after = load_file(first.weights), load_file(second.weights)
    assert changed(before, after) == {"fc.weight", "fc.bias"}
    assert checkpoint.load_classifier(second.best).classes == checkpoint.load_classifier(first.best).classes
