"""What the operating point promises and whether the test images keep it, in words, on made-up scores."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from alu_defects.evaluation import statistics
from alu_defects.evaluation.assessment import Assessment, CalibratedPredictions
from alu_defects.evaluation.operating import OperatingPoint, class_ids
from alu_defects.evaluation.predictions import PROBABILITY_PREFIX, Evaluation
from alu_defects.reports import evaluation_report
from alu_defects.training.metrics import SUMMARY_METRICS

CLASSES = ["normal", "dent"]
OPTIONS = {"normal": "normal", "max_escape": 0.03, "confidence_level": 0.95, "reject": 0.1}


def evaluation(
    split: str, good: list[float], defective: list[float], session: int, first: int = 0
) -> tuple[Evaluation, list[str]]:
    """Images with these scores of being defective; so many of a class in turn make a session."""
    scores = np.array(good + defective)
    labels = ["normal"] * len(good) + ["dent"] * len(defective)
    predictions = pd.DataFrame({"path": [f"{split}{k}" for k in range(len(scores))], "label": labels})
    predictions["prediction"] = np.where(scores >= 0.5, "dent", "normal")
    predictions[PROBABILITY_PREFIX + "normal"], predictions[PROBABILITY_PREFIX + "dent"] = 1 - scores, scores
    confusion = pd.crosstab(predictions["label"], predictions["prediction"]).reindex(
        index=CLASSES, columns=CLASSES, fill_value=0
    )
    found = statistics.weighted_scores(
        class_ids(predictions["label"], CLASSES),
        class_ids(predictions["prediction"], CLASSES),
        2,
        np.ones((1, len(scores))),
    )
    metrics = {name: float(found.summary[name][0]) for name in SUMMARY_METRICS}
    rows = list(range(first, first + len(scores)))
    sessions = [
        f"{name} {k // session}"
        for name, part in zip(CLASSES, (good, defective), strict=True)
        for k in range(len(part))
    ]
    return Evaluation(split, metrics, predictions, confusion, rows), sessions


def assess(val: tuple[Evaluation, list[str]], test: tuple[Evaluation, list[str]]) -> Assessment:
    point = OperatingPoint.choose(val[0].predictions, val[1], OPTIONS)
    assert point is not None
    return Assessment(CalibratedPredictions(*val, point), CalibratedPredictions(*test, point), point, 0.1, 0.99)


def said(val: tuple[Evaluation, list[str]], test: tuple[Evaluation, list[str]]) -> str:
    return " ".join(evaluation_report.operating_sentences(assess(val, test)))


GOOD, CAUGHT, PASSED = [0.1] * 40, [0.9] * 100, [0.2]


@pytest.mark.parametrize(
    ("passed", "verdict"),
    [
        (0, "(0.0 %; 0.0–3.6 %): the promise is kept."),
        (3, "(2.9 %; 0.6–8.3 %): the promise is kept."),
        (8, "more than promised for independent images (p = 0.0"),
        (40, "more than promised; by chance alone this happens with p = "),
    ],
)
def test_the_verdict_on_the_test_images(passed, verdict):
    text = said(evaluation("val", GOOD, CAUGHT, 4), evaluation("test", GOOD, CAUGHT + PASSED * passed, 4, 200))
    # 0 of 100 pass on val, which bounds them by 3.0 %; of 25 sessions by 11.3 %
    assert "with 95 % confidence at most 3.0 % do; 3.0 % was asked for" in text
    assert f"On test, {passed} of {100 + passed} defective images pass" in text
    assert verdict in text
    assert "say as much as 25 independent images, and with 95 % confidence at most 11.3 % pass." in text


def test_single_images_have_no_other_bound():
    text = said(evaluation("val", GOOD, CAUGHT, 1), evaluation("test", GOOD, CAUGHT, 1, 200))
    assert "the promise is kept" in text
    assert "of one session" not in text


def test_few_sessions_are_counted_with_a_decimal():
    text = said(evaluation("val", GOOD, CAUGHT, 60), evaluation("test", GOOD, CAUGHT, 60, 200))
    assert "say as much as 1.9 independent images" in text


def test_the_images_that_chose_prove_nothing():
    both = [0.01, *CAUGHT]
    text = said(evaluation("val", GOOD, both, 4), evaluation("test", GOOD, both, 4))
    assert "these images chose the threshold, so this proves nothing" in text
    assert "promise is kept" not in text


def test_too_few_images_promise_what_they_can():
    text = said(evaluation("val", GOOD, CAUGHT[:20], 1), evaluation("test", GOOD, CAUGHT, 1, 200))
    assert "The 20 defective images of val are too few to promise an escape rate of 3.0 %" in text
    assert "at most 13.9 % do. 99 defective images without an escape would be needed." in text


@pytest.mark.parametrize(
    ("defective", "passed", "verdict"),
    [
        (4, 0, "within the 52.7 % of val; the 3.0 % that was asked for was not promised."),
        (4, 25, "within the 52.7 % of val; the 3.0 % that was asked for was not promised, and more than that pass"),
        (20, 25, "more than val says; by chance alone this happens with p = "),
    ],
)
def test_a_promise_that_was_not_made_is_not_kept(defective, passed, verdict):
    test = evaluation("test", GOOD, CAUGHT[:75] + PASSED * passed, 1, 200)
    text = said(evaluation("val", GOOD, CAUGHT[:defective], 1), test)
    assert verdict in text
    assert "promise is kept" not in text
    assert "the 3.0 % that was asked for was not promised" in text
    assert "more than promised" not in text


def test_numbers_for_metrics_json():
    assessment = assess(evaluation("val", GOOD, CAUGHT, 4), evaluation("test", GOOD, CAUGHT + PASSED * 5, 4, 200))
    numbers, images = assessment.as_dict(), assessment.evaluated
    assert numbers["operating"]["test"]["escapes"] == 5
    assert numbers["operating"]["independent"] == pytest.approx(25)
    low, high = numbers["intervals"]["accuracy"]
    narrow = numbers["intervals"]["accuracy_wilson"]
    assert low < narrow[0] < 140 / 145 < narrow[1] < high
    of = {"labels": images.labels, "groups": images.sessions}
    drawn = statistics.bootstrap(images.labels, images.predicted, 2, images.sessions).summary["accuracy"]
    assert (low, high) == pytest.approx(statistics.summary_interval("accuracy", 140 / 145, drawn, **of))


def test_the_report_begins_with_the_notes_on_both_splits(tmp_path):
    val, test = (evaluation(split, GOOD, CAUGHT, session=1) for split in ("val", "test"))
    selected, partial = "selected on the evaluation images", "partial evaluation: 9 of 10 val images"
    val = replace(val[0], notes=(selected, partial)), val[1]
    test = replace(test[0], notes=(selected,)), test[1]
    assert list(itertools.islice(evaluation_report._parts(assess(val, test), None, tmp_path), 2)) == [
        "> The epoch was selected on the evaluation images: all scores are too good.",
        "> A partial evaluation: 9 of 10 val images.",
    ]


def test_test_images_without_defects_have_no_outcome():
    assessment = assess(evaluation("val", GOOD, CAUGHT, 4), evaluation("test", GOOD, [], 4, 200))
    assert assessment.point.threshold is not None
    assert "operating" not in assessment.as_dict()
    (text,) = evaluation_report.operating_sentences(assessment)
    assert text.startswith("val and test do not both have good and defective images")
