"""Losses against their formulas written out."""

from math import log
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alu_defects.errors import UserError
from alu_defects.training import losses

COUNTS = [50, 10, 30, 10]


def create(name: str, counts: list[int], weights: object = "none", **options: Any) -> losses.CrossEntropy:
    """A loss by the name of its class."""
    return losses.create_loss(
        {"_target_": f"alu_defects.training.losses.{name}", "class_weights": weights, **options}, counts
    )


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(16) % 4


def test_cross_entropy_by_hand() -> None:
    loss = create("CrossEntropy", [1, 1])
    logits = torch.tensor([[0.0, 0.0], [log(3), 0.0]])
    assert loss(logits, torch.tensor([0, 1])) == pytest.approx((log(2) + log(4)) / 2, abs=1e-6)
    torch.testing.assert_close(loss.probabilities(logits), torch.tensor([[0.5, 0.5], [0.75, 0.25]]))


def test_binary_loss_by_hand_is_summed_over_classes() -> None:
    loss = create("Binary", [1, 1, 1])
    logits = torch.tensor([[log(3), 0.0, -log(3)]])  # probabilities 3/4, 1/2, 1/4
    assert loss(logits, torch.tensor([0])) == pytest.approx(-log(0.75) - log(0.5) - log(0.75), abs=1e-6)
    torch.testing.assert_close(loss.probabilities(logits), torch.tensor([[0.75, 0.5, 0.25]]))


def test_focal_loss_by_hand() -> None:
    loss = create("Focal", [1, 1], gamma=2.0)
    logits = torch.tensor([[log(3), 0.0], [log(3), 0.0]])  # p of the label: 3/4, 1/4
    expected = (0.25**2 * -log(0.75) + 0.75**2 * -log(0.25)) / 2
    assert loss(logits, torch.tensor([0, 1])) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weights", ["none", "balanced", [1.0, 0.5, 2.0, 3.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_with_gamma_0_is_cross_entropy(
    logits: Tensor, labels: Tensor, weights: str | list[float], smoothing: float
) -> None:
    options = {"weights": weights, "label_smoothing": smoothing}
    focal = create("Focal", COUNTS, **options, gamma=0.0)(logits, labels)
    cross_entropy = create("CrossEntropy", COUNTS, **options)(logits, labels)
    torch.testing.assert_close(focal, cross_entropy)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_has_finite_gradients_at_probability_1(gamma: float) -> None:
    logits = torch.tensor([[100.0, 0.0], [0.0, 100.0]], requires_grad=True)
    create("Focal", [1, 1], gamma=gamma)(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_balanced_weights_give_classes_equal_influence() -> None:
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))
    logits = torch.zeros(100, 4)
    logits[labels == 1] = torch.tensor([5.0, 0.0, 0.0, 0.0])  # one rare class is mistaken
    per_class = [F.cross_entropy(logits[labels == c], labels[labels == c]) for c in range(4)]
    for name in ("CrossEntropy", "Focal"):
        weighted = create(name, COUNTS, "balanced", **({"gamma": 0.0} if name == "Focal" else {}))(logits, labels)
        torch.testing.assert_close(weighted, torch.stack(per_class).mean())
    assert create("CrossEntropy", COUNTS, "balanced").weight.tolist() == pytest.approx([0.5, 2.5, 5 / 6, 2.5])


@pytest.mark.parametrize("name", ["CrossEntropy", "Focal", "Binary"])
def test_equal_weights_change_nothing_and_weight_0_ignores_a_class(name: str, logits: Tensor, labels: Tensor) -> None:
    plain = create(name, COUNTS)
    torch.testing.assert_close(create(name, COUNTS, [7.0] * 4)(logits, labels), plain(logits, labels))
    kept = labels != 2
    without = create(name, COUNTS, [1.0, 1.0, 0.0, 1.0])(logits, labels)
    torch.testing.assert_close(without, plain(logits[kept], labels[kept]))


def test_label_smoothing_equals_smoothed_targets(logits: Tensor, labels: Tensor) -> None:
    targets = F.one_hot(labels, 4) * 0.8 + 0.2 / 4
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(create("CrossEntropy", COUNTS, label_smoothing=0.2)(logits, labels), expected)
    targets = F.one_hot(labels, 4) * 0.8 + 0.1
    expected = -(targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits)).sum(1).mean()
    torch.testing.assert_close(create("Binary", COUNTS, label_smoothing=0.2)(logits, labels), expected)


@pytest.mark.parametrize("weights", ["balance", [1.0, 2.0], [], 2, ["a", "b", "c", "d"], [1, 1, 1, -1], [0, 0, 0, 0]])
def test_class_weights_that_do_not_fit_are_errors(weights: object) -> None:
    with pytest.raises(UserError, match=r"loss\.class_weights=.* neither none, balanced nor a list of 4 numbers"):
        create("CrossEntropy", COUNTS, weights)


def test_unknown_losses_and_classes_that_are_no_loss_are_errors() -> None:
    with pytest.raises(UserError, match=r"losses.Focall does not exist; did you mean Focal\?"):
        create("Focall", COUNTS)
    with pytest.raises(UserError, match=r"_target_=torch.optim.SGD may not be instantiated"):
        losses.create_loss({"_target_": "torch.optim.SGD", "lr": 1.0}, COUNTS)


def test_unknown_options_are_named() -> None:
    with pytest.raises(
        UserError, match=r"^loss.gamma=2.0: .*CrossEntropy has no such option.* Remove it with ~loss.gamma$"
    ):
        create("CrossEntropy", COUNTS, gamma=2.0)
    with pytest.raises(UserError, match=r"CrossEntropy cannot be made .*label_smoothing=1.5 is not in \[0, 1\)"):
        create("CrossEntropy", COUNTS, label_smoothing=1.5)


@pytest.mark.parametrize("name", ["CrossEntropy", "Focal", "Binary"])
@pytest.mark.parametrize("weights", ["none", [1.0, 0.5, 2.0, 3.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_whole_shares_equal_class_ids(
    name: str, weights: str | list[float], smoothing: float, logits: Tensor, labels: Tensor
) -> None:
    loss = create(name, COUNTS, weights, label_smoothing=smoothing)
    shares = F.one_hot(labels, 4).float()
    torch.testing.assert_close(loss(logits, shares), loss(logits, labels))
    torch.testing.assert_close(loss.total_weight(shares), loss.total_weight(labels))


@pytest.mark.parametrize("name", ["CrossEntropy", "Binary"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mixture_has_the_mean_of_the_losses_of_its_classes(name: str, smoothing: float, logits: Tensor) -> None:
    loss = create(name, COUNTS, label_smoothing=smoothing)
    first, second = torch.full((16,), 1), torch.full((16,), 3)
    mixed = 0.3 * F.one_hot(first, 4) + 0.7 * F.one_hot(second, 4)
    torch.testing.assert_close(loss(logits, mixed), 0.3 * loss(logits, first) + 0.7 * loss(logits, second))


def test_focal_loss_of_a_mixture_takes_the_mean_probability_of_its_classes() -> None:
    loss = create("Focal", [1, 1], gamma=2.0)
    mixed = torch.tensor([[0.75, 0.25]])
    p = 0.75 * 0.75 + 0.25 * 0.25
    expected = (1 - p) ** 2 * -(0.75 * log(0.75) + 0.25 * log(0.25))
    assert loss(torch.tensor([[log(3), 0.0]]), mixed) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["CrossEntropy", "Focal", "Binary"])
def test_average_has_the_mean_probabilities(name: str) -> None:
    loss = create(name, COUNTS)
    views = torch.randn(4, 16, 4, generator=torch.Generator().manual_seed(0)) * 3
    torch.testing.assert_close(
        loss.probabilities(loss.average(views)), loss.probabilities(views.flatten(0, 1)).view(4, 16, 4).mean(0)
    )
    assert loss.average(views * 1000).isfinite().all()
