"""What a network's probabilities mean: pass, reject, accept or ask."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from alu_defects.deployment.bundle import Action, Bundle
from alu_defects.errors import UserError
from alu_defects.evaluation.calibration import Calibration


def bundle(**changes) -> Bundle:
    entries = {
        "classes": ["normal", "pit", "桔皮"],
        "titles": ["无瑕疵样本", "起坑", "桔皮"],
        "image_size": (32, 48),
        "resize": "squash",
        "bits": 8,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "calibration": Calibration(1.3, 100),
        "tta": [],
        "normal": "normal",
        "threshold": {"score": 0.3},
        "ask_below": 0.5,
        "about": {"model": "shufflenet"},
        "temperature_inside": 1.3,
    }
    return Bundle(**entries | changes)


@pytest.mark.parametrize(
    ("probabilities", "action"),
    [
        ((0.8, 0.1, 0.1), Action.PASS),
        ((0.7, 0.2, 0.1), Action.REJECT),  # a score of exactly the threshold
        ((0.1, 0.8, 0.1), Action.REJECT),
        ((0.4, 0.3, 0.3), Action.ASK),
    ],
)
def test_a_piece_passes_below_the_threshold_and_a_person_is_asked_below_the_confidence(probabilities, action):
    (decision,) = bundle(threshold={"score": 1 - 0.7}).decide(np.array([probabilities]))
    assert decision.action is action
    assert decision.label == ["normal", "pit", "桔皮"][int(np.argmax(probabilities))]
    assert decision.confidence == max(probabilities)
    assert list(decision.probabilities.values()) == list(probabilities)


@pytest.mark.parametrize("changes", [{"normal": None}, {"threshold": None}])
def test_without_a_threshold_the_class_is_accepted_or_a_person_asked(changes):
    decisions = bundle(**changes).decide(np.array([(0.1, 0.8, 0.1), (0.4, 0.3, 0.3)]))
    assert [one.action for one in decisions] == [Action.ACCEPT, Action.ASK]


@pytest.mark.parametrize("name", ["桔皮", os.fsdecode("桔皮".encode("gbk"))])  # folders of old Windows archives
def test_a_bundle_survives_metadata_which_are_utf_8(name):
    made = bundle(classes=["normal", "pit", name])
    text = made.as_json()
    text.encode()
    assert Bundle.from_json(text, Path("x.onnx")) == made


@pytest.mark.parametrize("text", ['{"format": 2}', '{"format": 1, "new": 3}', "[]", "{}", "no JSON"])
def test_a_bundle_of_another_version_is_refused(text):
    with pytest.raises(UserError, match=r"run=x\.onnx is damaged or of another version .* export it again"):
        Bundle.from_json(text, Path("x.onnx"))


def test_a_bundle_survives_json():
    made = bundle()
    assert Bundle.from_dict(json.loads(json.dumps(made.as_dict()))) == made
