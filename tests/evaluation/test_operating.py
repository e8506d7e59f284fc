"""The operating point: its promise by simulation, counts by hand, its file, curves against scikit-learn."""

import math
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_curve

from alu_defects.errors import UserError
from alu_defects.evaluation import assessment, operating, statistics
from alu_defects.evaluation.operating import OperatingPoint, Outcome

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
OPTIONS = {"normal": "normal", "max_escape": 0.1, "confidence_level": 0.95, "reject": 0.1}


@pytest.fixture
def _fast_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same few bounds are asked for thousands of times."""
    monkeypatch.setattr(statistics, "upper_bound", lru_cache(statistics.upper_bound))


def overlapping_scores(rng: np.random.Generator, normal: int = 300, defective: int = 200) -> tuple[Floats, Bools]:
    """Scores that overlap, and whether each image is defective."""
    scores = 1 / (1 + np.exp(-np.concatenate([rng.normal(-2, 1.2, normal), rng.normal(2, 1.2, defective)])))
    order = rng.permutation(normal + defective)
    return scores[order], np.repeat([False, True], [normal, defective])[order]


# what is promised


@pytest.mark.usefixtures("_fast_bounds")
@pytest.mark.parametrize(
    ("defective", "max_escape", "confidence_level", "digits"),
    [
        (400, 0.01, 0.95, 15),
        (400, 0.02, 0.95, 15),
        (700, 0.05, 0.95, 15),
        (300, 0.02, 0.8, 15),
        (400, 0.02, 0.95, 2),  # many images of one score
        (60, 0.01, 0.95, 15),  # too few: the bound is what is promised
        (250, 0.01, 0.95, 15),  # too few, and one or two may escape
    ],
)
def test_in_so_many_cases_the_escape_rate_is_within_the_bound(defective, max_escape, confidence_level, digits):
    """Defective pieces have uniform scores: of all of them, below a threshold lie as many as it says."""
    rng, sets, broken = np.random.default_rng(0), 2000, 0
    every = np.ones(defective, bool)
    for _ in range(sets):
        chosen = operating.choose_threshold(rng.random(defective).round(digits), every, max_escape, confidence_level)
        # rounded to two digits, below 0.03 lies what is less than 0.025
        escape = chosen.score if digits > 2 else max(chosen.score - 0.005, 0)
        assert chosen.promised == (defective >= chosen.needed)
        broken += escape > (max_escape if chosen.promised else chosen.bound)
    error = math.sqrt(confidence_level * (1 - confidence_level) / sets)
    assert broken / sets <= 1 - confidence_level + 3 * error
    if digits > 2 and not chosen.promised:  # and it is no higher than it need be
        assert broken / sets >= 1 - confidence_level - 3 * error
    if digits > 2 and chosen.promised:
        expected = stats.binom.cdf(chosen.escapes, defective, max_escape)
        assert broken / sets == pytest.approx(expected, abs=3 * error)


def test_the_highest_threshold_that_keeps_the_bound():
    scores = np.random.default_rng(0).permutation(np.linspace(0.001, 1, 1000))
    chosen = operating.choose_threshold(scores, np.ones(1000, bool), 0.01)
    assert statistics.upper_bound(4, 1000) <= 0.01 < statistics.upper_bound(5, 1000)
    assert (chosen.escapes, chosen.defective) == (4, 1000)
    assert chosen.score == pytest.approx(0.005)
    assert chosen.bound == pytest.approx(stats.beta.ppf(0.95, 5, 996))
    assert chosen.promised
    assert chosen.needed == 299


def test_exactly_as_many_images_as_needed():
    scores = np.linspace(0.1, 0.9, 299)
    enough = operating.choose_threshold(scores, np.ones(299, bool), 0.01)
    assert (enough.promised, enough.escapes, enough.score) == (True, 0, 0.1)
    few = operating.choose_threshold(scores[:298], np.ones(298, bool), 0.01)
    assert not few.promised
    assert few.needed == 299


def test_too_few_images_promise_less():
    scores = np.arange(1, 151) / 151
    chosen = operating.choose_threshold(scores, np.ones(150, bool), 0.01)  # 1 of 150 is less than 1 %, 2 are more
    assert (chosen.escapes, chosen.score) == (1, scores[1])
    assert chosen.bound == pytest.approx(stats.beta.ppf(0.95, 2, 149))
    assert (chosen.promised, chosen.needed) == (False, 299)
    single = operating.choose_threshold(np.array([0.4, 0.9]), np.array([False, True]), 0.01)
    assert (single.score, single.escapes, single.bound) == (0.9, 0, pytest.approx(0.95))


@pytest.mark.usefixtures("_fast_bounds")
@pytest.mark.parametrize("max_escape", [0.02, pytest.param(0.1, marks=pytest.mark.slow)])
def test_where_images_of_a_session_share_their_score_the_other_bound_holds(max_escape):
    rng, sets = np.random.default_rng(0), 1000
    broken, bounds = {"bound": 0, "bound_together": 0}, []
    for _ in range(sets):
        session = np.repeat(np.arange(80), rng.integers(1, 7, 80))
        scores = rng.random(80)[session]  # uniform: below a threshold lie as many as it says
        every = np.ones(len(session), bool)
        chosen = operating.choose_threshold(scores, every, max_escape, groups=session.astype(str).tolist())
        assert chosen.independent == pytest.approx(statistics.effective_sample_size(session.astype(str)))
        for name in broken:
            broken[name] += chosen.score > getattr(chosen, name)
        bounds.append(chosen.bound_together)
    assert broken["bound"] / sets > 0.1
    assert broken["bound_together"] / sets <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / sets)
    assert max(bounds) < max_escape + 0.1  # and it is one that says something


def test_single_images_have_one_bound():
    scores, defective = overlapping_scores(np.random.default_rng(0), 500, 400)
    chosen = operating.choose_threshold(scores, defective, 0.02, groups=[str(k) for k in range(900)])
    assert (chosen.independent, chosen.bound_together) == (400, chosen.bound)
    assert chosen == operating.choose_threshold(scores, defective, 0.02)


def test_good_pieces_have_no_say_in_the_threshold():
    rng = np.random.default_rng(0)
    scores, defective = overlapping_scores(rng, 500, 400)
    chosen = operating.choose_threshold(scores, defective, 0.02)
    assert chosen == operating.choose_threshold(scores[defective], np.ones(400, bool), 0.02)
    assert chosen.score in scores[defective]
    found = operating.count_outcome(scores, defective, chosen.score)
    assert (found.escapes, found.defective) == (chosen.escapes, chosen.defective)


def test_images_of_the_threshold_itself_are_flagged():
    scores = np.array([0.2] * 5 + [0.3] * 395)
    chosen = operating.choose_threshold(scores, np.ones(400, bool), 0.02)
    assert statistics.upper_bound(3, 400) <= 0.02
    assert (chosen.score, chosen.escapes) == (0.2, 0)
    assert chosen.bound == pytest.approx(statistics.upper_bound(3, 400))  # its rank was fixed before
    assert operating.count_outcome(scores, np.ones(400, bool), 0.2).escapes == 0


def test_good_and_defective_images_are_both_needed():
    assert operating.both_kinds(np.array([True, False]))
    assert not operating.both_kinds(np.array([True, True]))
    assert not operating.both_kinds(np.array([False]))
    assert not operating.both_kinds(np.array([], bool))


# what comes of it


def test_counts_at_a_threshold():
    scores = np.array([0.1, 0.5, 0.9, 0.2, 0.5, 0.7, 0.4])
    defective = np.array([True, True, True, False, False, False, False])
    found = operating.count_outcome(scores, defective, 0.5)
    assert found == Outcome(escapes=1, defective=3, overkills=2, normal=4)
    assert (found.escape, found.overkill) == (1 / 3, 0.5)
    assert operating.count_outcome(scores, defective, 0.0) == Outcome(0, 3, 4, 4)
    assert operating.count_outcome(scores, defective, math.inf) == Outcome(3, 3, 0, 4)


@pytest.mark.parametrize(("events", "total"), [(0, 30), (1, 30), (12, 30), (30, 30)])
def test_intervals_of_an_outcome(events, total):
    low = 0.0 if events == 0 else stats.beta.ppf(0.025, events, total - events + 1)
    high = 1.0 if events == total else stats.beta.ppf(0.975, events + 1, total - events)
    found = Outcome(events, total, events, total)
    assert found.escape_interval == pytest.approx((low, high), abs=1e-8)
    assert found.overkill_interval == pytest.approx((low, high), abs=1e-8)


@pytest.mark.parametrize(("escapes", "bound"), [(0, 0.01), (3, 0.01), (7, 0.02), (400, 0.01), (5, 1.0)])
def test_how_likely_a_broken_promise_is_chance(escapes, bound):
    expected = stats.binom.sf(escapes - 1, 400, bound)
    assert Outcome(escapes, 400, 0, 10).breaks(bound) == pytest.approx(expected, abs=1e-12)


def test_nothing_there_is_no_rate():
    nothing = Outcome(0, 0, 0, 0)
    assert math.isnan(nothing.escape)
    assert math.isnan(nothing.overkill)
    assert np.isnan(nothing.escape_interval).all()
    assert nothing.breaks(0.01) == 1


# operating.json


def made_up(defective: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    score = np.concatenate([rng.beta(2, 5, 40), rng.beta(5, 2, defective)])
    return pd.DataFrame(
        {
            "label": ["normal"] * 40 + ["pit"] * defective,
            "prediction": np.where(score < 0.5, "normal", "pit"),
            "probability_normal": 1 - score,
            "probability_pit": score,
        }
    )


@pytest.mark.parametrize("normal", [True, False])
def test_the_file_is_read_as_it_was_written(normal, tmp_path):
    predictions = made_up()
    if not normal:
        predictions = predictions.replace("normal", "dent").rename(columns={"probability_normal": "probability_dent"})
    point = OperatingPoint.choose(predictions, ["a"] * 100, OPTIONS)
    assert point is not None
    point.save(tmp_path / "operating.json")
    assert OperatingPoint.load(tmp_path / "operating.json") == point
    assert (point.normal is None) is (point.threshold is None) is (point.chosen is None) is not normal
    with pytest.raises(UserError, match=r"there is no .*operating\.json"):
        OperatingPoint.load(tmp_path / "elsewhere" / "operating.json")


def test_the_options_decide_the_threshold():
    predictions = made_up()
    points = [OperatingPoint.choose(predictions, ["a"] * 100, OPTIONS | {"max_escape": rate}) for rate in (0.1, 0.3)]
    strict, loose = (point.threshold for point in points if point and point.threshold)
    assert strict.score < loose.score
    surer = OperatingPoint.choose(predictions, ["a"] * 100, OPTIONS | {"confidence_level": 0.999})
    assert surer is not None
    assert surer.threshold is not None
    assert surer.threshold.bound > strict.bound
    assert points[1] is not None
    assert points[1].chosen == points[1].outcome(predictions)
    assert points[1].outcome(made_up(0)) is None


def test_val_without_defects_has_a_calibration_but_no_threshold():
    point = OperatingPoint.choose(made_up(0), ["a"] * 40, OPTIONS)
    assert point is not None
    assert (point.normal, point.threshold) == ("normal", None)
    assert point.calibration.images == 40


def test_a_network_that_has_diverged_has_no_operating_point():
    assert OperatingPoint.choose(made_up().assign(probability_pit=np.nan), ["a"] * 100, OPTIONS) is None


def test_unknown_normal_class_is_refused_with_the_nearest_name():
    operating.check_normal("normal", ["dent", "pit"])  # the default, which may be missing
    with pytest.raises(
        UserError, match=r"operating\.normal=pits is not a class; did you mean pit\? There are: dent, pit"
    ):
        operating.check_normal("pits", ["dent", "pit"])


# curves


@pytest.mark.parametrize("digits", [15, 1])
def test_curve_is_that_of_scikit_learn(digits):
    scores, defective = overlapping_scores(np.random.default_rng(0))
    scores = scores.round(digits)
    overkill, escape = assessment.escape_overkill_curve(scores, defective)
    expected = roc_curve(defective, scores, drop_intermediate=False)
    assert overkill == pytest.approx(expected[0])
    assert escape == pytest.approx(1 - expected[1])
    assert (overkill[0], escape[0], overkill[-1], escape[-1]) == (0, 1, 1, 0)


def test_every_threshold_is_on_the_curve():
    scores, defective = overlapping_scores(np.random.default_rng(1), 40, 30)
    points = set(zip(*(values.round(9) for values in assessment.escape_overkill_curve(scores, defective)), strict=True))
    for threshold in scores:
        found = operating.count_outcome(scores, defective, threshold)
        assert (round(found.overkill, 9), round(found.escape, 9)) in points


def test_the_curve_lies_in_its_band():
    scores, defective = overlapping_scores(np.random.default_rng(0))
    sessions = [str(k // 3) for k in range(len(scores))]
    low, high = assessment.escape_band(scores, defective, sessions)
    escape = np.interp(assessment.GRID, *assessment.escape_overkill_curve(scores, defective))
    assert low.shape == high.shape == assessment.GRID.shape
    assert (low <= high).all()
    assert ((low <= escape + 1e-12) & (escape <= high + 1e-12)).mean() > 0.95
    assert (high - low)[:20].mean() > 0.01
    assert (np.diff(high) <= 1e-12).all()


def test_a_resample_without_good_pieces_has_no_curve():
    # two sessions of good pieces among 20: one resample in eight holds neither of them, and must not count
    defective = np.repeat([False, True], [40, 360])
    scores = np.random.default_rng(0).normal(np.where(defective, 2, 0))
    _, high = assessment.escape_band(scores, defective, [str(k // 20) for k in range(400)])
    assert high[100] < 0.2  # at an overkill of 50 %; without them 0.03


# selective prediction


def test_coverage_by_hand():
    confidence, right = np.array([0.6, 0.9, 0.7, 0.8]), np.array([True, True, False, True])
    share, accuracy = assessment.coverage_curve(confidence, right)
    assert share.tolist() == [1, 0.75, 0.5, 0.25]
    assert accuracy.tolist() == [0.75, 2 / 3, 1, 1]


def test_coverage_lies_in_its_band():
    rng = np.random.default_rng(0)
    confidence = rng.random(300)
    right = rng.random(300) < 0.5 + confidence / 2
    low, high = assessment.coverage_band(confidence, right, [str(k // 2) for k in range(300)])
    share, accuracy = assessment.coverage_curve(confidence, right)
    own = np.interp(assessment.GRID, share[::-1], accuracy[::-1])
    assert (low <= high).all()
    assert ((low <= own) & (own <= high))[10:].mean() > 0.95
    assert low[-1] < right.mean() < high[-1]


def test_the_order_of_the_images_makes_no_difference_to_coverage():
    confidence, right = np.array([1.0, 1.0, 1.0, 0.5]), np.array([True, True, False, False])
    shown = [assessment.coverage_curve(confidence, right[order]) for order in ([0, 1, 2, 3], [2, 1, 0, 3])]
    assert shown[0][1].tolist() == shown[1][1].tolist()


def test_the_share_that_goes_to_a_person():
    confidence = np.random.default_rng(0).permutation(np.linspace(0.01, 1, 100))
    right = np.ones(100, bool)
    for share in (0.05, 0.1, 0.5):
        least = operating.confidence_for_share(confidence, share)
        assert assessment.count_decided(confidence, right, least)[0] == round(100 * (1 - share))
    assert operating.confidence_for_share(confidence, 0) == 0
    assert assessment.count_decided(confidence, right, -math.inf) == (100, 100)


def test_the_confidence_from_which_on_enough_are_right():
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    right = np.array([True, False, True, True, False])
    # right: 1 of 1, 1 of 2, 2 of 3, 3 of 4, 3 of 5
    assert assessment.confidence_for_accuracy(confidence, right, 0.99) == 0.9
    assert assessment.confidence_for_accuracy(confidence, right, 0.75) == 0.6
    assert assessment.confidence_for_accuracy(confidence, right, 0.7) == 0.6
    assert assessment.confidence_for_accuracy(confidence, right, 0.6) == 0.5
    assert assessment.confidence_for_accuracy(confidence, ~right, 0.75) == math.inf
    assert assessment.count_decided(confidence, right, 0.6) == (4, 3)
    assert assessment.count_decided(confidence, right, math.inf) == (0, 0)


def test_images_of_one_confidence_are_decided_together():
    confidence, right = np.array([0.9, 0.8, 0.8, 0.8]), np.array([True, True, True, False])
    # 0.8 lets in all three, the wrong one too
    assert assessment.confidence_for_accuracy(confidence, right, 0.9) == 0.9
    assert assessment.confidence_for_accuracy(confidence, right, 0.75) == 0.8
    assert assessment.count_decided(confidence, right, 0.8) == (4, 3)
    assert assessment.confidence_for_accuracy(np.full(3, 0.8), np.array([True, True, False]), 0.9) == math.inf


def test_what_is_decided_is_right_as_often_as_was_asked():
    rng = np.random.default_rng(0)
    for _ in range(50):
        confidence = rng.random(60).round(1)
        right = rng.random(60) < confidence
        least = assessment.confidence_for_accuracy(confidence, right, 0.8)
        number, hits = assessment.count_decided(confidence, right, least)
        assert not number or hits / number >= 0.8
        for lower in set(confidence[confidence < least]):
            number, hits = assessment.count_decided(confidence, right, lower)
            assert hits / number < 0.8
