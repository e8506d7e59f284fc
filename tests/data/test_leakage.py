"""The time-only baseline: how well the capture time alone predicts the class."""

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from alu_defects.data import leakage, splits
from alu_defects.data.leakage import Leakage
from alu_defects.data.sessions import capture_time
from alu_defects.errors import UserError
from alu_defects.tianchi_classes import CLASSES

from .tianchi_names import TRAIN3, true_names

LEAKAGE = Leakage(400, accuracy=0.96, macro_recall=0.931, majority=0.51, share_within_30s=0.79)


def table(*rows: tuple[str, str, int | None]) -> pd.DataFrame:
    """A catalog of (label, split, seconds past midnight)."""
    times = ["" if s is None else (pd.Timestamp("2018-09-01") + pd.Timedelta(seconds=s)).isoformat() for *_, s in rows]
    return pd.DataFrame({"label": [r[0] for r in rows], "split": [r[1] for r in rows], "time": times}, dtype=str)


def test_time_only_baseline_predicts_the_class_of_the_nearest_image() -> None:
    found = leakage.time_only_baseline(
        table(
            ("a", "train", 0),
            ("a", "train", 100),
            ("b", "train", 200),
            ("b", "train", None),
            ("b", "val", 140),  # validation images are neither seen nor predicted
            ("a", "test", 30),  # right, with a training image within 30 s
            ("a", "val+test", 131),  # right, the nearest 31 s off
            ("b", "test", 150),  # as near to both: the earlier, which is wrong
            ("b", "test", 5000),  # right
            ("a", "test", None),
        ),
    )
    assert found == Leakage(images=4, accuracy=0.75, macro_recall=0.75, majority=0.5, share_within_30s=0.25)
    assert json.loads(json.dumps(asdict(found)))["accuracy"] == 0.75


def test_the_order_of_the_rows_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (str(rng.choice(list("abc"))), str(rng.choice(["train", "test", "val"])), int(rng.integers(100)))
        for _ in range(300)
    ]
    assert leakage.time_only_baseline(table(*rows)) == leakage.time_only_baseline(table(*rows[::-1]))


def test_time_only_baseline_equals_a_search_over_all_pairs() -> None:
    rng = np.random.default_rng(1)
    times = rng.permutation(5000)[:200]
    rows = [(str(rng.choice(list("abcd"))), "train" if n % 2 else "test", int(times[n])) for n in range(200)]
    train, test = rows[1::2], rows[::2]
    guesses = [min(train, key=lambda other: (abs(other[2] - row[2]), other[2]))[0] for row in test]
    near = [any(o[0] == row[0] and abs(o[2] - row[2]) <= 30 for o in train) for row in test]
    found = leakage.time_only_baseline(table(*rows))
    assert found is not None
    assert found.accuracy == pytest.approx(np.mean([g == row[0] for g, row in zip(guesses, test, strict=True)]))
    assert found.share_within_30s == pytest.approx(np.mean(near))


def test_time_only_baseline_never_predicts_an_untrained_class() -> None:
    found = leakage.time_only_baseline(table(("a", "train", 0), ("a", "test", 1), ("b", "test", 2)))
    assert found is not None
    assert (found.macro_recall, found.share_within_30s) == (0.5, 0.5)


@pytest.mark.parametrize("without", ["train", "test"])
def test_without_times_there_is_no_time_only_baseline(without: str) -> None:
    rows = [("a", split, None if split == without else 5) for split in ("train", "val", "test")]
    assert leakage.time_only_baseline(table(*rows)) is None


def test_leakage_sentence() -> None:
    assert LEAKAGE.sentence() == (
        "A predictor that sees no pixels, only when an image was taken, scores 96.0 % accuracy and 93.1 % macro "
        "recall on the 400 test images with a time (majority class 51.0 %); 79 % of them have a training image of "
        "the same class within 30 s. Scores on this split are partly due to the capture time; keep longer sessions "
        "together (split=session, a larger split.gap)."
    )
    modest = replace(LEAKAGE, accuracy=0.7)
    assert not modest.is_strong
    assert modest.sentence().endswith("within 30 s.")


@pytest.fixture(scope="module")
def images_of_the_paper() -> pd.DataFrame:
    """Its eleven classes by the true file names, which stand in for the content."""
    folders = {c.folder: c.name for c in CLASSES}
    rows = []
    for path in true_names():
        archive, *_, folder, name = path.split("/")
        if archive == TRAIN3 and folder in folders:
            rows.append((path, folders[folder], capture_time(name), hashlib.sha256(path.encode()).hexdigest()))
    return pd.DataFrame(rows, columns=["path", "label", "time", "sha256"], dtype=str)


@pytest.mark.parametrize(
    ("options", "accuracy", "macro_recall"),
    [
        ({"name": "paper"}, 0.960, 0.935),  # over 20 seeds: sd 0.011 and 0.018
        ({"name": "session", "gap": 60}, 0.870, 0.771),  # 0.026 and 0.036
        ({"name": "session", "gap": 300}, 0.679, 0.549),  # 0.101 and 0.066
    ],
)
def test_time_only_baseline_on_the_images_of_the_paper(
    images_of_the_paper: pd.DataFrame, options: dict[str, Any], accuracy: float, macro_recall: float
) -> None:
    found = [
        leakage.time_only_baseline(splits.split_catalog(images_of_the_paper, seed=seed, **options))
        for seed in range(20)
    ]
    assert np.mean([f.accuracy for f in found if f]) == pytest.approx(accuracy, abs=0.001)
    assert np.mean([f.macro_recall for f in found if f]) == pytest.approx(macro_recall, abs=0.001)


def test_half_an_hour_leaves_two_classes_one_session(images_of_the_paper: pd.DataFrame) -> None:
    with pytest.raises(UserError, match=r"cracked_coating .* 35 in 1 sessions \(.*split\.gap=1800 s\)"):
        splits.split_catalog(images_of_the_paper, name="session", gap=1800, seed=0)
