"""Losses against their formulas written out."""

from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alu_defects.errors import UserError
from alu_defects.training import losses

COUNTS = [50, 10, 30, 10]


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(16) % 4


def test_cross_entropy_of_a_case_by_hand() -> None:
    loss = losses.create_loss("cross_entropy", [1, 1])
    logits = torch.tensor([[0.0, 0.0], [log(3), 0.0]])
    assert loss(logits, torch.tensor([0, 1])) == pytest.approx((log(2) + log(4)) / 2, abs=1e-6)
    torch.testing.assert_close(loss.probabilities(logits), torch.tensor([[0.5, 0.5], [0.75, 0.25]]))


def test_binary_of_a_case_by_hand_is_summed_over_the_classes() -> None:
    loss = losses.create_loss("binary", [1, 1, 1])
    logits = torch.tensor([[log(3), 0.0, -log(3)]])  # probabilities 3/4, 1/2, 1/4
    assert loss(logits, torch.tensor([0])) == pytest.approx(-log(0.75) - log(0.5) - log(0.75), abs=1e-6)
    torch.testing.assert_close(loss.probabilities(logits), torch.tensor([[0.75, 0.5, 0.25]]))


def test_focal_of_a_case_by_hand() -> None:
    loss = losses.create_loss("focal", [1, 1], gamma=2.0)
    logits = torch.tensor([[log(3), 0.0], [log(3), 0.0]])  # p of the label: 3/4, 1/4
    expected = (0.25**2 * -log(0.75) + 0.75**2 * -log(0.25)) / 2
    assert loss(logits, torch.tensor([0, 1])) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weights", ["none", "balanced", [1.0, 0.5, 2.0, 3.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_with_gamma_0_is_cross_entropy(
    logits: Tensor, labels: Tensor, weights: str | list[float], smoothing: float
) -> None:
    options = {"class_weights": weights, "label_smoothing": smoothing}
    focal = losses.create_loss("focal", COUNTS, **options, gamma=0.0)(logits, labels)
    cross_entropy = losses.create_loss("cross_entropy", COUNTS, **options)(logits, labels)
    torch.testing.assert_close(focal, cross_entropy)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_has_finite_gradients_for_predictions_that_are_certain(gamma: float) -> None:
    logits = torch.tensor([[100.0, 0.0], [0.0, 100.0]], requires_grad=True)
    losses.create_loss("focal", [1, 1], gamma=gamma)(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_balanced_weights_make_every_class_count_the_same() -> None:
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))
    logits = torch.zeros(100, 4)
    logits[labels == 1] = torch.tensor([5.0, 0.0, 0.0, 0.0])  # one rare class is mistaken
    per_class = [F.cross_entropy(logits[labels == c], labels[labels == c]) for c in range(4)]
    for name in ("cross_entropy", "focal"):
        weighted = losses.create_loss(name, COUNTS, "balanced", **({"gamma": 0.0} if name == "focal" else {}))(
            logits, labels
        )
        torch.testing.assert_close(weighted, torch.stack(per_class).mean())
    assert losses.create_loss("cross_entropy", COUNTS, "balanced").weight.tolist() == pytest.approx(
        [0.5, 2.5, 5 / 6, 2.5]
    )


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "binary"])
def test_equal_weights_are_none_and_a_weight_of_zero_ignores_its_class(
    name: str, logits: Tensor, labels: Tensor
) -> None:
    plain = losses.create_loss(name, COUNTS)
    torch.testing.assert_close(losses.create_loss(name, COUNTS, [7.0] * 4)(logits, labels), plain(logits, labels))
    kept = labels != 2
    without = losses.create_loss(name, COUNTS, [1.0, 1.0, 0.0, 1.0])(logits, labels)
    torch.testing.assert_close(without, plain(logits[kept], labels[kept]))


def test_label_smoothing_against_the_smoothed_targets(logits: Tensor, labels: Tensor) -> None:
    targets = F.one_hot(labels, 4) * 0.8 + 0.2 / 4
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(
        losses.create_loss("cross_entropy", COUNTS, label_smoothing=0.2)(logits, labels), expected
    )
    targets = F.one_hot(labels, 4) * 0.8 + 0.1
    expected = -(targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits)).sum(1).mean()
    torch.testing.assert_close(losses.create_loss("binary", COUNTS, label_smoothing=0.2)(logits, labels), expected)


@pytest.mark.parametrize("weights", ["balance", [1.0, 2.0], [], 2, ["a", "b", "c", "d"], [1, 1, 1, -1], [0, 0, 0, 0]])
def test_weights_that_do_not_fit_the_classes_are_refused(weights: object) -> None:
    with pytest.raises(UserError, match=r"loss\.class_weights=.* neither none, balanced nor a list of 4 numbers"):
        losses.create_loss("cross_entropy", COUNTS, weights)


def test_an_unknown_loss_answers_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"loss.name=focall does not exist; did you mean focal"):
        losses.create_loss("focall", COUNTS)


@pytest.mark.parametrize("options", [{"gamma": 2.0}, {"label_smoothing": 1.5}])
def test_options_that_the_loss_does_not_take_are_named(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"loss.name=cross_entropy: .*{next(iter(options))}"):
        losses.create_loss("cross_entropy", COUNTS, **options)
