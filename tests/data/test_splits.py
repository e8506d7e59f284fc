"""Stratified splits: proportions, determinism, and what is refused."""

import hashlib

import pandas as pd
import pytest

from alu_defects.data import splits
from alu_defects.errors import UserError


def table(**counts: int) -> pd.DataFrame:
    rows = [
        (f"{label}/{n}.png", label, hashlib.sha256(f"{label}{n}".encode()).hexdigest())
        for label in counts
        for n in range(counts[label])
    ]
    return pd.DataFrame(rows, columns=["path", "label", "sha256"])


def divide(catalog: pd.DataFrame, val: float = 0.2, test: float = 0.2, seed: int = 0) -> pd.Series:
    return splits.random(catalog, val_fraction=val, test_fraction=test, seed=seed).set_index("path")["split"]


def test_every_class_is_divided_in_the_same_proportion() -> None:
    catalog = table(many=200, some=50, few=10)
    result = splits.random(catalog, val_fraction=0.1, test_fraction=0.3, seed=1)
    counts = pd.crosstab(result["label"], result["split"])
    assert counts.loc["many"].to_dict() == {"train": 120, "val": 20, "test": 60}
    assert counts.loc["some"].to_dict() == {"train": 30, "val": 5, "test": 15}
    assert counts.loc["few"].to_dict() == {"train": 6, "val": 1, "test": 3}
    pd.testing.assert_frame_equal(result.drop(columns="split"), catalog)


def test_the_seed_alone_decides_not_the_order_of_the_rows() -> None:
    catalog = table(a=30, b=30)
    shuffled = catalog.sample(frac=1, random_state=3)
    first = divide(catalog)
    assert divide(catalog).equals(first)
    assert divide(shuffled).reindex(first.index).equals(first)
    assert divide(shuffled.reset_index(drop=True)).reindex(first.index).equals(first)
    assert not divide(catalog, seed=1).equals(first)


def test_the_column_of_an_earlier_split_is_replaced() -> None:
    catalog = table(a=30, b=30)
    again = splits.random(catalog.assign(split="train"), val_fraction=0.2, test_fraction=0.2, seed=0)
    assert again.set_index("path")["split"].equals(divide(catalog))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_class_with_too_few_pictures_is_named(count: int) -> None:
    with pytest.raises(UserError, match=rf"class rare has {count} pictures, too few"):
        divide(table(frequent=50, rare=count))


def test_a_class_that_would_miss_a_split_is_named() -> None:
    with pytest.raises(UserError, match="class rare has 6 pictures, too few"):
        divide(table(frequent=500, rare=6), val=0.05, test=0.05)


@pytest.mark.parametrize(
    ("val", "test"), [(0.0, 0.2), (0.2, 0.0), (-0.1, 0.2), (0.5, 0.5), (1.2, 0.1), (float("nan"), 0.2)]
)
def test_fractions_that_leave_a_split_empty_are_refused(val: float, test: float) -> None:
    with pytest.raises(
        UserError, match=rf"split\.val_fraction={val} and split\.test_fraction={test}.* must be above 0"
    ):
        divide(table(a=30, b=30), val=val, test=test)


def test_a_seed_that_is_out_of_range_is_not_blamed_on_the_pictures() -> None:
    with pytest.raises(UserError, match=r"split\.seed=-1"):
        divide(table(a=30, b=30), seed=-1)


def test_only_held_out_splits_are_evaluated_on() -> None:
    splits.check_held_out("val")
    with pytest.raises(UserError, match="split=train"):
        splits.check_held_out("train")
