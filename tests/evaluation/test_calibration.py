"""The temperature, on labels that were drawn from known probabilities."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax

from alu_defects.evaluation import assessment
from alu_defects.evaluation.calibration import Calibration

Floats = NDArray[np.float64]


def truth(images: int = 4000, classes: int = 5) -> tuple[Floats, NDArray[np.intp]]:
    """Logits, and labels that come as often as these say."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (images, classes))
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("activation", [lambda logits: softmax(logits, axis=1), expit], ids=["softmax", "sigmoid"])
def test_the_temperature_is_found(temperature, activation):
    logits, labels = truth()
    given = activation(temperature * logits)
    found = Calibration.fit(given, labels)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.images == 4000
    assert np.abs(found.apply(given) - softmax(logits, axis=1)).mean() < 0.01
    assert assessment.calibration_error(found.apply(given), labels) < 0.025


def test_an_overconfident_network_becomes_less_confident():
    logits, labels = truth()
    given = softmax(3 * logits, axis=1)
    assert assessment.calibration_error(given, labels) > 0.1
    assert Calibration.fit(given, labels).apply(given).max(axis=1).mean() < given.max(axis=1).mean() - 0.1


@pytest.mark.parametrize("activation", [lambda logits: softmax(logits, axis=1), expit], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_order_stays_and_the_sum_is_one(activation, temperature):
    given = activation(truth(500)[0])
    applied = Calibration(temperature, 500).apply(given)
    assert applied.sum(axis=1) == pytest.approx(np.ones(500))
    assert (np.argsort(applied, axis=1) == np.argsort(given, axis=1)).all()
    assert ((applied > 0) & (applied < 1)).all()


def test_a_temperature_of_one_changes_nothing():
    given = softmax(truth(200)[0], axis=1)
    assert Calibration(1.0, 200).apply(given) == pytest.approx(given)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(
    "given",
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]],
        [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]],
        [[1, 1e-40, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5], [0, 0, 1]],
    ],
    ids=["softmax", "sigmoid", "mixed"],
)
def test_probabilities_of_exactly_0_and_1(kind, given):
    probabilities, labels = np.array(given, kind), np.array([0, 1, 2, 0])
    found = Calibration.fit(probabilities, labels)
    applied = found.apply(probabilities)
    assert 0.05 <= found.temperature <= 20
    assert np.isfinite(applied).all()
    assert applied.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    assert (np.diff(np.take_along_axis(applied, np.argsort(probabilities, axis=1), axis=1)) >= 0).all()


@pytest.mark.parametrize("activation", [lambda logits: softmax(logits, axis=1), expit], ids=["softmax", "sigmoid"])
def test_float32_gives_the_temperature_of_float64(activation):
    logits, labels = truth()
    given = activation(1.5 * logits)
    found = Calibration.fit(given.astype(np.float32), labels)
    assert found.temperature == pytest.approx(Calibration.fit(given, labels).temperature, rel=0.01)


def test_an_image_is_calibrated_alike_alone_and_among_others():
    given = np.array([[0.9995, 0.0002, 0.0002], [0.9, 0.8, 0.1]])  # one against the rest; the first sums to 0.9999
    found = Calibration(1.0, 2, one_against_rest=True)
    assert found.apply(given[:1])[0] == pytest.approx(found.apply(given)[0], abs=1e-6)


def test_expected_error_by_hand():
    # 10 images at 0.9, 8 of them right; 10 at 0.6, 6 right; 5 at 0.75, all right
    confidence = np.repeat([0.9, 0.6, 0.75], [10, 10, 5])
    labels = np.concatenate([np.repeat([0, 1], [8, 2]), np.repeat([0, 1], [6, 4]), np.zeros(5, int)])
    found = assessment.calibration_error(np.column_stack([confidence, 1 - confidence]), labels)
    assert found == pytest.approx((10 * 0.1 + 10 * 0 + 5 * 0.25) / 25, abs=1e-6)


def test_expected_error_over_bins_of_equal_width():
    logits, labels = truth(800)
    given = softmax(2 * logits, axis=1)
    confidence, right = given.max(axis=1), given.argmax(axis=1) == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(right[bins == k].mean() - confidence[bins == k].mean()) * (bins == k).mean() for k in set(bins)]
    assert assessment.calibration_error(given, labels) == pytest.approx(sum(gaps), abs=1e-6)
