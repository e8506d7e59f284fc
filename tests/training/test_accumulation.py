"""Batches that are too large for a GPU, without one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alu_defects.config import compose
from alu_defects.errors import UserError
from alu_defects.train import train
from alu_defects.training import accumulation
from alu_defects.training.module import Classifier


def limited_step(room: int, tried: list[int]) -> Callable[[int], None]:
    """A training step on a GPU with memory for `room` images."""

    def step(images: int) -> None:
        tried.append(images)
        if images > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    return step


@pytest.mark.parametrize(
    ("batch_size", "room", "parts", "sizes"),
    [(16, 16, 1, [16]), (16, 15, 2, [16, 8]), (50, 7, 8, [50, 25, 13, 7]), (3, 2, 2, [3, 2]), (1, 1, 1, [1])],
)
def test_batch_is_halved_until_it_fits(batch_size: int, room: int, parts: int, sizes: list[int]) -> None:
    tried: list[int] = []
    assert accumulation.find_accumulation_steps(limited_step(room, tried), batch_size) == parts
    assert tried == sizes


def test_gpu_without_memory_for_two_images_is_an_error() -> None:
    with pytest.raises(UserError, match=r"of 2 images does not fit .* lower data\.image_size"):
        accumulation.find_accumulation_steps(limited_step(1, []), 8)


def test_other_errors_are_raised() -> None:
    def step(_: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        accumulation.find_accumulation_steps(step, 8)


def tiny() -> Classifier:
    """A classifier of three classes, in evaluation mode."""
    return Classifier(
        model={"name": "shufflenet", "width": 0.5},
        classes=["a", "b", "c"],
        class_counts=[1, 1, 1],
        image_size=32,
        loss={"_target_": "alu_defects.training.losses.CrossEntropy"},
        optimizer={"_target_": "torch.optim.AdamW", "lr": 0.1, "fused": True},
        scheduler={},
    ).eval()


def test_trial_step_does_not_change_the_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    forward = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, x: (steps.append(len(x)), forward(self, x))[1])
    classifier = tiny()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    accumulation.trial_step(classifier, (32, 32), torch.device("cpu"), torch.bfloat16, copies=2)(2)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert steps == [2, 2]  # the optimizer's state and activations are in memory together from the second on
    assert not classifier.training
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_trial_step_allocates_further_copies_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = tiny()
    weights = sum(4 * p.numel() for p in classifier.parameters())
    sizes: list[int] = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: (sizes.append(size[0]), empty(*size, **options))[1])
    accumulation.trial_step(classifier, (32, 32), torch.device("cpu"), None, copies=2)(2)
    assert 2 * weights in sizes


class NoRoomError(Exception):
    """As the text of the traceback of another process comes."""


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        NoRoomError("-- Process 1 terminated --\ntorch.OutOfMemoryError: CUDA out of memory."),
    ],
)
def test_out_of_memory_is_an_error_and_resume_halves_the_parts(
    small: list[str], tmp_path: Path, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", fail)
        with pytest.raises(UserError, match=r"of 16 images does not fit .* each batch cut into 2 parts"):
            train(compose("train", [*small, f"run_dir={tmp_path}"]))
    sizes: list[int] = []
    step = Classifier.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Classifier,
            "training_step",
            lambda self, batch, number: (sizes.append(len(batch["label"])), step(self, batch, number))[1],
        )
        train(compose("train", [f"resume={tmp_path}"]))
    assert set(sizes) == {8}
    assert json.loads((tmp_path / "run.json").read_text())["accumulate_grad_batches"] == 2


def test_out_of_memory_with_fixed_accumulation_recommends_a_smaller_batch(small: list[str], tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", fail)
        with pytest.raises(UserError, match=r"start again with a lower data\.batch_size or data\.image_size"):
            train(compose("train", [*small, "trainer.accumulate_grad_batches=1", f"run_dir={tmp_path}"]))


def test_resume_with_smaller_parts_keeps_the_number_of_steps(small: list[str], tmp_path: Path) -> None:
    step = Classifier.training_step

    def fail_in_the_second_epoch(self: Classifier, batch: dict[str, torch.Tensor], number: int) -> object:
        if self.current_epoch == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return step(self, batch, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", fail_in_the_second_epoch)
        with pytest.raises(UserError, match="each batch cut into 2 parts"):
            train(compose("train", [*small, "trainer.max_epochs=3", f"run_dir={tmp_path}"]))
    train(compose("train", [f"resume={tmp_path}"]))  # 24 images: one whole batch of 16, three parts of 8
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 3
