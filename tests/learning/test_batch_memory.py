"""Batches that are too large for a GPU, without one."""

from collections.abc import Callable

import pytest
import torch

from alu_defects.errors import UserError
from alu_defects.learning import batch_memory
from alu_defects.learning.module import Classifier


def card(room: int, tried: list[int]) -> Callable[[int], None]:
    """A training step on a card with room for so many pictures."""

    def step(pictures: int) -> None:
        tried.append(pictures)
        if pictures > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    return step


@pytest.mark.parametrize(
    ("batch_size", "room", "parts", "sizes"),
    [(16, 16, 1, [16]), (16, 15, 2, [16, 8]), (50, 7, 8, [50, 25, 13, 7]), (3, 2, 2, [3, 2]), (1, 1, 1, [1])],
)
def test_a_batch_is_halved_until_it_fits(batch_size: int, room: int, parts: int, sizes: list[int]) -> None:
    tried: list[int] = []
    assert batch_memory.parts(card(room, tried), batch_size) == parts
    assert tried == sizes


def test_a_card_without_room_for_two_pictures_is_an_error_with_a_mend() -> None:
    with pytest.raises(UserError, match=r"of 2 pictures does not fit .* lower data\.image_size"):
        batch_memory.parts(card(1, []), 8)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def step(_: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        batch_memory.parts(step, 8)


def test_the_trial_is_two_training_steps_that_leave_the_classifier_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    forward = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, x: (steps.append(len(x)), forward(self, x))[1])
    classifier = Classifier(
        model={"name": "shufflenet", "width": 0.5},
        classes=["a", "b", "c"],
        class_counts=[1, 1, 1],
        image_size=32,
        loss={"name": "cross_entropy"},
        optimizer={"_target_": "torch.optim.AdamW", "lr": 0.1, "fused": True},
        scheduler={"name": "none"},
    ).eval()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    batch_memory.trial(classifier, 32, torch.device("cpu"), autocast=True)(2)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert steps == [2, 2]  # the optimizer's state and activations are in memory together from the second on
    assert not classifier.training
    assert all(parameter.grad is None for parameter in classifier.parameters())
