"""The trainer that a configuration asks for, or why there is none."""

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar
from torch import nn

from alu_defects.config import compose, plain
from alu_defects.errors import UserError
from alu_defects.evaluate import evaluate
from alu_defects.train import train
from alu_defects.training import accumulation, checkpoint, trainer

CPU: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "enable_checkpointing": False}
CALLBACKS = {
    "bar": {"_target_": "alu_defects.training.callbacks.ProgressBar"},
    "stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/f1"},
    "off": None,
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_gpu_without_a_gpu_is_an_error(accelerator: str) -> None:
    with pytest.raises(UserError, match="there is no GPU that PyTorch can use; trainer=auto"):
        create({**CPU, "accelerator": accelerator})


def create(options: dict[str, Any], callbacks: dict[str, Any] | None = None) -> pl.Trainer:
    return trainer.create_trainer(options, callbacks or {}, [], nn.Linear(2, 2))


def test_auto_settings_and_given_ones() -> None:
    automatic = create({**CPU, "precision": "auto", "benchmark": "auto", "accumulate_grad_batches": "auto"})
    assert (automatic.precision, automatic.accumulate_grad_batches) == ("32-true", 1)
    chosen = create({**CPU, "precision": "bf16-mixed", "accumulate_grad_batches": 3})
    assert (chosen.precision, chosen.accumulate_grad_batches) == ("bf16-mixed", 3)


@pytest.mark.parametrize("deterministic", [True, False])
def test_cudnn_benchmark_is_on_unless_deterministic(deterministic: bool) -> None:
    before = torch.backends.cudnn.benchmark
    try:
        create({**CPU, "benchmark": "auto", "deterministic": deterministic})
        assert torch.backends.cudnn.benchmark is not deterministic
    finally:
        torch.backends.cudnn.benchmark = before
        torch.use_deterministic_algorithms(False)


def test_compile_auto_compiles_on_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "some-compiler")
    assert trainer.should_compile(True, CPU)
    assert not trainer.should_compile(False, CPU)
    assert not trainer.should_compile("auto", CPU)
    with pytest.raises(UserError, match="compile=yes is not true, false or auto"):
        trainer.should_compile("yes", CPU)
    monkeypatch.setattr(trainer.CUDAAccelerator, "is_available", lambda: True)
    assert trainer.should_compile("auto", {"accelerator": "auto"})
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="compile=True needs a C\\+\\+ compiler"):
        trainer.should_compile(True, CPU)
    assert not trainer.should_compile("auto", {"accelerator": "auto"})  # it is a wish, not an order


def test_null_callbacks_and_disabled_progress_bars_are_skipped() -> None:
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
def test_unknown_trainer_options_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"trainer: .*{named}"):
        create({**CPU, **options})


def test_callbacks_with_unknown_options_or_other_classes_are_errors() -> None:
    with pytest.raises(UserError, match=r"EarlyStopping cannot be made .*patienc\b"):
        create(CPU, {"stop": {**CALLBACKS["stop"], "patienc": 3}})  # type: ignore[dict-item]
    for target in (
        "os.getcwd",
        "alu_defects.runs.run.os.getcwd",
        "alu_defects.runs.run.Path",
        "lightning.pytorch.cli.instantiate_class",
        "timm.models._hub.download_url_to_file",
        "timmy.x",
        "torch.optim.SGD",
    ):
        with pytest.raises(UserError, match=f"_target_={re.escape(target)} may not be instantiated"):
            create(CPU, {"x": {"_target_": target, "args": "true", "init": {"class_path": "os.system"}}})


def test_resumed_run_keeps_its_precision_unless_one_is_given() -> None:
    before = {"precision": "bf16-mixed"}
    assert trainer.repeat_precision({"precision": "auto"}, before) == before
    assert trainer.repeat_precision({"precision": "32-true"}, before) == {"precision": "32-true"}
    assert trainer.repeat_precision({"precision": "auto"}, {}) == {"precision": "auto"}


class Data:
    """What `fit_batch` needs of the data."""

    def __init__(self) -> None:
        self.batch_size, self.image_size = 100, (32, 32)

    def find_rows(self, split: str) -> range:
        return range(250)


@pytest.mark.parametrize(("parts", "count", "size"), [(None, 1, 100), (1, 1, 100), (8, 8, 13)])
def test_resumed_run_keeps_its_accumulation_steps(parts: int | None, count: int, size: int) -> None:
    data, fit = Data(), create(CPU)
    accumulation.accumulate_to_fit(fit, None, data, parts)  # type: ignore[arg-type]
    assert (fit.accumulate_grad_batches, data.batch_size) == (count, size)
    if count > 1:
        assert fit.limit_train_batches == 2 * count  # 250 images are two steps of 100, as before


BEST = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "monitor": "val/f1", "mode": "auto"}
LAST = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "monitor": None, "save_top_k": 1}
WHOLE = {**CPU, "precision": "auto", "strategy": "auto", "threads": "auto", "check_val_every_n_epoch": 1}
WHOLE["enable_checkpointing"] = True


def check(options: dict[str, Any], **callbacks: dict[str, Any]) -> None:
    trainer.check_trainer({**WHOLE, **options}, {"best": BEST, "last": LAST, **callbacks})


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val/loss", "min"),
        ("val/f1", "max"),
        ("val/accuracy", "max"),
        ("val/recall/loss", "max"),
        ("train/loss", "min"),
    ],
)
def test_auto_mode_keeps_the_best_epoch(monitor: str, mode: str) -> None:
    stop = {"_target_": "alu_defects.training.callbacks.EarlyStopping", "monitor": monitor, "mode": "auto"}
    made = create(WHOLE, {"best": {**BEST, "monitor": monitor}, "stop": stop})
    for callback in (made.checkpoint_callback, made.early_stopping_callback):
        assert callback is not None
        assert (callback.monitor, callback.mode) == (monitor, mode)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "max"), ("val/f1", "min"), ("val/precision/pit", "min")])
def test_mode_that_keeps_the_worst_epoch_is_an_error(monitor: str, mode: str) -> None:
    with pytest.raises(UserError, match=f"callbacks.best.mode={mode} would keep the worst epoch by {monitor}"):
        check({}, best={**BEST, "monitor": monitor, "mode": mode})


def test_unknown_metric_needs_a_mode() -> None:
    stop = {**BEST, "monitor": "my/error"}
    with pytest.raises(UserError, match=r"give callbacks\.stop\.mode=min or max"):
        check({}, stop=stop)
    check({}, stop={**stop, "mode": "min"})


def test_callback_without_mode_gets_that_of_its_monitor() -> None:
    without = {key: value for key, value in BEST.items() if key != "mode"}
    for entry in (without, {**BEST, "mode": None}):
        assert create(WHOLE, {"best": entry}).checkpoint_callback.mode == "max"  # type: ignore[union-attr]


def test_best_epoch_and_early_stopping_share_a_monitor() -> None:
    config = compose("train", ["callbacks=[default,early_stopping]", "callbacks.best.monitor=val/loss"])
    made = create(WHOLE, plain(config.callbacks))
    assert made.checkpoint_callback.mode == made.early_stopping_callback.mode == "min"  # type: ignore[union-attr]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as Lightning can tell."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr("lightning.fabric.accelerators.cuda.num_cuda_devices", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("devices", "gpu"), [([1], 1), ([0], 0), (1, 0), ("1,", 1), ("1", 0)], ids=["list", "first", "one", "text", "word"]
)
def test_one_gpu_of_several_can_be_chosen(devices: Any, gpu: int) -> None:
    options = {**WHOLE, "accelerator": "gpu", "devices": devices}
    check(options)
    assert create(options).strategy.root_device == torch.device("cuda", gpu)
    assert create(trainer.single_device(options)).strategy.root_device == torch.device("cuda", gpu)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("devices", [2, [0, 1], "auto", -1, "0,1"])
def test_several_gpus_need_ddp_spawn(devices: Any) -> None:
    options = {**WHOLE, "accelerator": "gpu", "devices": devices}
    with pytest.raises(UserError, match=r"start the whole command again in each process; add trainer=ddp"):
        check(options)
    check({**options, "strategy": "ddp_spawn"})
    assert create(trainer.single_device(options)).strategy.root_device == torch.device("cuda", 0)


@pytest.mark.parametrize("strategy", ["ddp", "ddp_find_unused_parameters_true"])
def test_strategies_that_start_the_command_again_are_errors(strategy: str) -> None:
    with pytest.raises(UserError, match=f"trainer.strategy={strategy} would start the whole command again"):
        check({"strategy": strategy, "devices": 2})


SBATCH = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_NPROCS": "1",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODELIST": "node7",
}


@pytest.fixture
def in_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What `sbatch --ntasks=1` sets, in a folder where a job before left a checkpoint; returns the folder."""
    for name, value in SBATCH.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_3.ckpt").write_bytes(b"of another job")
    return tmp_path


@pytest.mark.usefixtures("in_slurm")
def test_processes_in_a_slurm_allocation_have_different_ranks() -> None:
    made = create({**WHOLE, "strategy": "ddp_spawn", "devices": 2})
    assert made.world_size == 2
    made.strategy.cluster_environment.set_global_rank(1)  # type: ignore[attr-defined]
    assert made.strategy.cluster_environment.global_rank() == 1  # type: ignore[attr-defined]


@pytest.mark.usefixtures("in_slurm")
def test_every_slurm_task_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.rank_zero_only, "rank", 1)  # as Lightning takes it from SLURM_PROCID of the second
    create(WHOLE)
    assert trainer.rank_zero_only.rank == 0


@pytest.mark.slow
def test_run_in_a_slurm_allocation_ignores_hpc_checkpoints(in_slurm: Path, small: list[str]) -> None:
    train(compose("train", [*small, "trainer.max_epochs=1", f"run_dir={in_slurm / 'run'}"]))
    assert (in_slurm / "run" / "metrics.json").is_file()
    done = evaluate(compose("evaluate", [f"run={in_slurm / 'run'}", "trainer=cpu"]))
    assert done["test"]["loss"] > 0
    assert sorted(path.name for path in in_slurm.iterdir()) == ["hpc_ckpt_3.ckpt", "run"]


@pytest.mark.slow
def test_ddp_in_a_slurm_allocation_trains_as_one_run(in_slurm: Path, small: list[str], command: Any) -> None:
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=4"]
    done = command("train", *small, *words, f"run_dir={in_slurm / 'run'}")
    assert done.returncode == 0, done.stderr
    alone = command("train", *small, "data.batch_size=8", f"run_dir={in_slurm / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    steps = [
        checkpoint.read_checkpoint(in_slurm / name / "checkpoints" / "last.ckpt")["global_step"]
        for name in ("run", "alone")
    ]
    assert steps[0] == steps[1]  # each had half of the images
