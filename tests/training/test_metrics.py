"""Metrics against scikit-learn."""

import numpy as np
import pytest
import torch
import torchmetrics
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from alu_defects.training import losses, metrics

CLASSES = ["normal", "pit", "dent", "bruise", "spot"]


def drawn(label_choices: list[int], prediction_choices: list[int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels, guesses = rng.choice(label_choices, 60), rng.choice(prediction_choices, 60)
    right = rng.random(60) < 0.5
    return labels, np.where(right & np.isin(labels, prediction_choices), labels, guesses)


@pytest.mark.parametrize(
    ("label_choices", "prediction_choices"),
    [
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ([0, 1, 2, 3, 4], [0, 1, 3]),  # two classes are never predicted
        ([0, 1, 2], [0, 1, 2, 3]),  # one is predicted but does not occur, one is absent from both
        ([0, 0, 4], [1, 2]),  # nothing is right
    ],
)
def test_metrics_equal_scikit_learn(label_choices: list[int], prediction_choices: list[int]) -> None:
    labels, predictions = drawn(label_choices, prediction_choices)
    logits = torch.nn.functional.one_hot(torch.from_numpy(predictions), 5).float() * 2 - 1
    losses = torch.rand(60, generator=torch.Generator().manual_seed(0))
    summary = metrics.ClassificationMetrics(5)
    for part in torch.arange(60).split(7):  # in batches of unequal size
        summary.update(logits[part], torch.from_numpy(labels)[part], losses[part].sum(), torch.tensor(float(len(part))))
    computed = summary.compute()
    assert computed["confusion"].tolist() == confusion_matrix(labels, predictions, labels=range(5)).tolist()

    values = {name: float(value) for name, value in metrics.flat_names(computed, CLASSES, "val").items()}
    there = np.unique(labels)  # an average over classes without images would punish data that lack them
    macro = precision_recall_fscore_support(labels, predictions, labels=there, average="macro", zero_division=0)
    precision, recall, _, _ = precision_recall_fscore_support(labels, predictions, labels=range(5), zero_division=0)
    expected = {
        "val/loss": float(losses.mean()),
        "val/accuracy": accuracy_score(labels, predictions),
        **dict(zip(("val/precision", "val/recall", "val/f1"), macro, strict=False)),
        **{f"val/precision/{name}": value for name, value in zip(CLASSES, precision, strict=True)},
        **{f"val/recall/{name}": value for name, value in zip(CLASSES, recall, strict=True)},
    }
    assert values == pytest.approx(expected, abs=1e-6)


def test_metrics_equal_torchmetrics() -> None:
    labels, predictions = (torch.from_numpy(values) for values in drawn([0, 1, 2], [0, 1, 2]))
    summary = metrics.ClassificationMetrics(5)
    summary.update(torch.nn.functional.one_hot(predictions, 5).float(), labels, torch.tensor(0.0), torch.tensor(60.0))
    computed = summary.compute()
    options = {"task": "multiclass", "num_classes": 5}
    for name, average in (("accuracy", "micro"), ("precision", "macro"), ("recall", "macro"), ("f1", "macro")):
        function = getattr(torchmetrics.functional, {"f1": "f1_score"}.get(name, name))
        torch.testing.assert_close(computed[name], function(predictions, labels, average=average, **options))
    expected = torchmetrics.functional.confusion_matrix(predictions, labels, **options)
    assert torch.equal(computed["confusion"], expected)


def test_reset_starts_a_new_epoch() -> None:
    summary = metrics.ClassificationMetrics(5)
    summary.update(torch.eye(5), torch.tensor([1, 2, 3, 4, 0]), torch.tensor(15.0), torch.tensor(5.0))
    first = summary.compute()
    assert (first["accuracy"], first["loss"]) == (0, 3)
    summary.reset()
    summary.update(torch.eye(5), torch.arange(5), torch.tensor(5.0), torch.tensor(5.0))
    values = summary.compute()
    assert (values["accuracy"], values["loss"]) == (1, 1)
    assert values["confusion"].tolist() == torch.eye(5).tolist()
    assert first["confusion"].sum() == 5  # what was returned does not change


def test_counts_are_not_stored_in_checkpoints() -> None:
    assert not metrics.ClassificationMetrics(5).state_dict()


@pytest.mark.parametrize("name", ["CrossEntropy", "Focal", "Binary"])
@pytest.mark.parametrize("weights", ["none", [1.0, 0.2, 5.0, 0.0]])
def test_loss_does_not_depend_on_batches(name: str, weights: object) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(48, 4, generator=generator),
        torch.arange(4).repeat_interleave(12),
    )  # batches of one class
    loss = losses.create_loss({"_target_": f"alu_defects.training.losses.{name}", "class_weights": weights}, [12] * 4)
    found = []
    for batch_size, order in (
        (1, torch.arange(48)),
        (16, torch.arange(48)),
        (16, torch.randperm(48)),
        (48, torch.arange(48)),
    ):
        summary = metrics.ClassificationMetrics(4)
        for part in order.split(batch_size):
            total = loss.total(logits[part], labels[part])
            summary.update(logits[part], labels[part], total, loss.total_weight(labels[part]))
        found.append(float(summary.compute()["loss"]))
    assert found == pytest.approx([float(loss(logits, labels))] * 4, rel=1e-5)


def test_precision_recall_and_f1_are_nan_where_nothing_counts() -> None:
    hits, support, predicted = np.array([[3, 0, 0, 0]]), np.array([[4, 2, 0, 0]]), np.array([[6, 0, 2, 0]])
    precision, recall, f1 = metrics.precision_recall_f1(hits, support, predicted)
    np.testing.assert_array_equal(precision, [[0.5, np.nan, 0, np.nan]])
    np.testing.assert_array_equal(recall, [[0.75, 0, np.nan, np.nan]])
    np.testing.assert_array_equal(f1, [[0.6, 0, 0, np.nan]])
