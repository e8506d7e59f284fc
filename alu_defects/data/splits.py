"""Which images train, which select the model, which test it.

Images of one bar, taken seconds apart, are almost the same. A split that trains on one and tests on the next measures
memory: `session`, the default, keeps them together, `paper` and `random` do not. `leakage` measures how much that adds
to the scores.
"""

import hashlib
import inspect
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alu_defects.data import catalog, sessions
from alu_defects.errors import UserError, check_choice

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
NEW = "new"  # labelled images that a run did not have: it is evaluated on them
VAL_AND_TEST = "val+test"  # images that select the model and test it: its score is too good
SELECTED_ON_TEST = "selected on the evaluation images"  # what every report then says


def check_split_options(**options: Any) -> None:
    """Refuse with a `UserError` options of `split_catalog` that are wrong for any images, by splitting none."""
    split_catalog(pd.DataFrame(columns=list(catalog.COLUMNS), dtype=str), **options)


def split_catalog(table: pd.DataFrame, *, name: str, gap: float = 60, **options: Any) -> pd.DataFrame:
    """Split a catalog; the same images are split in the same way, whatever their order and folder.

    Args:
        table: the catalog, with no two images of the same bytes.
        name: a key of `SPLITTERS`.
        gap: the longest pause within a session, in seconds.
        options: those of the splitter.

    Returns:
        The catalog with the columns `session` and `split`: train, val, test or val+test. Every class is in all three.

    Raises:
        UserError: no such splitter, an option that it does not have or that is out of range, a wrong split.file, or a
            class with too few images or sessions.
    """
    check_choice("split.name", name, SPLITTERS)
    try:
        inspect.signature(SPLITTERS[name]).bind(table, **options)
    except TypeError as error:
        raise UserError(f"split.name={name}: {error}; split={name} sets name and options together") from error
    table = table.assign(session=sessions.find_sessions(table, gap))
    table["split"] = SPLITTERS[name](table, **options)
    fix = _FIXES.get(name, "add images, of which a class needs three, or remove the class")
    check_classes(table, table["label"].unique(), f"(split.gap={gap} s); {fix}")
    return table


def check_classes(table: pd.DataFrame, classes: Iterable[str], fix: str) -> None:
    """Refuse with a `UserError` a catalog where a class is missing in train, val or test; it is named with the fix."""
    for split in SPLITS:
        if missing := set(classes).difference(table.loc[in_split(table, split), "label"].unique()):
            own = table[table["label"] == min(missing)]
            raise UserError(
                f"class {min(missing)} has no images in {split}: "
                f"it has {len(own)} in {own['session'].nunique()} sessions {fix}"
            )


def in_split(table: pd.DataFrame, split: str) -> NDArray[np.bool_]:
    """Which rows of a catalog are in train, val or test, (rows,); those of `val+test` are in both."""
    return table["split"].isin([split] if split == "train" else [split, VAL_AND_TEST]).to_numpy(dtype=bool)


def selected_on_test(table: pd.DataFrame) -> bool:
    """Whether test images also select the model."""
    return bool((table["split"] == VAL_AND_TEST).any())


def check_held_out(split: str) -> None:
    """Refuse with a `UserError` a split that models are not evaluated on: neither val nor test."""
    if split not in SPLITS[1:]:
        raise UserError(f"split={split} is not one of {', '.join(SPLITS[1:])}")


def session(table: pd.DataFrame, *, val_fraction: float = 0.2, test_fraction: float = 0.2, seed: int) -> pd.Series:
    """Hold out whole sessions: for every class as near to the fractions of its images as sessions allow.

    Sessions are chosen in the order of a hash; those with more than twice the images that are still wanted train. New
    images therefore move few others to another split; scikit-learn's StratifiedGroupKFold would draw all of them again.
    """
    return _hold_out(table, _whole_sessions(table), {"test": test_fraction, "val": val_fraction}, seed)


def random(table: pd.DataFrame, *, val_fraction: float = 0.2, test_fraction: float = 0.2, seed: int) -> pd.Series:
    """Hold out single images: for every class the same fractions."""
    return _hold_out(table, table["sha256"], {"test": test_fraction, "val": val_fraction}, seed)


def paper(table: pd.DataFrame, *, val_fraction: float = 0.0, test_fraction: float = 0.2, seed: int) -> pd.Series:
    """Hold out single images, a fifth of every class: of the 1,996 of the paper's eleven classes exactly 400.

    The accuracies of Zhang, Sun and Yang (2022), 94.25, 93.75 and 98.00 %, are exact for 400 images. They name no
    validation images, so these 400 select the model and test it. With a `val_fraction`, some of the training images
    select it, and the same 400 only test it.
    """
    if val_fraction == 0:
        return _hold_out(table, table["sha256"], {VAL_AND_TEST: test_fraction}, seed)
    return random(table, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)


def kfold(table: pd.DataFrame, *, k: int = 5, fold: int = 0, by: str = "session", seed: int) -> pd.Series:
    """Distribute sessions or images, class by class, over k folds: one tests, the next validates, the others train.

    The largest first, each goes to the fold that has the fewest images of its class so far: a class with k or more of
    them is in every fold. scikit-learn's StratifiedGroupKFold does not guarantee that (its issue 34828), nor do all
    its versions stratify when it shuffles (32478).

    Over all folds, from 0 to k - 1, each image tests once. `by` is what stays together: session or image.

    Raises:
        UserError: an option out of range, or a class with fewer than k of them.
    """
    if not 0 <= fold < k:
        raise UserError(f"split.fold={fold} must be from 0 to {k - 1}, since split.k={k}")
    units = _whole_sessions(table) if by == "session" else table["sha256"]
    folds, total = dict[str, int](), [0] * k
    for label, own in units.groupby(table["label"]):
        sizes = Counter(own.to_numpy(dtype=object))  # value_counts takes three times as long
        if len(sizes) < k:  # in whichever fold: a cross-validation is whole or not at all
            raise UserError(
                f"class {label} has {len(sizes)} {by}s, fewer than split.k={k} folds; "
                "lower split.k or split.gap, or add images"
            )
        dealt = [0] * k
        for unit in sorted(_shuffled(sizes, seed), key=sizes.__getitem__, reverse=True):
            least = min(range(k), key=lambda f: (dealt[f], total[f]))
            folds[unit] = least
            dealt[least] += sizes[unit]
            total[least] += sizes[unit]
    parts = {fold: "test", (fold + 1) % k: "val"}
    return units.map(lambda unit: parts.get(folds[unit], "train"))


def file(table: pd.DataFrame, *, file: str) -> pd.Series:
    """Take the split from a CSV with the columns path and split, such as a run's catalog.csv.

    Raises:
        UserError: it cannot be read, lacks a column or an image, or has a path twice or a wrong split.
    """
    path = Path(str(file)).expanduser()
    try:
        given = catalog.load_catalog(path)
    except (OSError, ValueError) as error:  # of pandas: EmptyDataError and ParserError are ValueErrors
        raise UserError(f"split.file={file} cannot be read ({error}); give a CSV with path and split") from error
    if missing := {"path", "split"}.difference(given.columns):
        raise UserError(f"split.file={file} has no column {min(missing)}, only {', '.join(given.columns)}")
    if len(wrong := given[~given["split"].isin([*SPLITS, VAL_AND_TEST])]):
        path, split = wrong[["path", "split"]].iloc[0]
        raise UserError(f"split.file={file}: {path} is in {split!r}, not in {', '.join(SPLITS)} or {VAL_AND_TEST}")
    if len(twice := given.loc[given["path"].duplicated(), "path"]):
        raise UserError(f"split.file={file} has {len(twice)} paths more than once, the first is {twice.iloc[0]}")
    if len(absent := table.loc[~table["path"].isin(given["path"]), "path"]):
        raise UserError(
            f"split.file={file} lacks {len(absent)} of the {len(table)} images, the first is {absent.iloc[0]}; "
            "add them, with paths relative to data.root"
        )
    strangers = given.loc[~given["path"].isin(table["path"]), "path"]
    if len(strangers) and len(table):  # without any images only the file itself is checked
        log.warning("%s: %d images are not in the data, the first is %s", file, len(strangers), strangers.iloc[0])
    return table["path"].map(given.set_index("path")["split"])


SPLITTERS: dict[str, Callable[..., pd.Series]] = {s.__name__: s for s in (session, paper, kfold, random, file)}
_FIXES = {
    "session": "lower split.gap, choose split=random, which splits sessions, or add images: a class needs three",
    "file": "let split.file put some there; val+test is val and test",
}


def _whole_sessions(table: pd.DataFrame) -> pd.Series:
    if untimed := int((table["time"] == "").sum()):
        log.warning("%d of %d images have no capture time: each is a session of its own", untimed, len(table))
    return table["session"]


def _shuffled(units: Iterable[str], seed: int) -> list[str]:
    """Units in the order of a hash of seed and name: a new unit does not change the order of the others."""
    return sorted(units, key=lambda unit: hashlib.sha256(os.fsencode(f"{seed} {unit}")).digest())


def _hold_out(table: pd.DataFrame, units: pd.Series, fractions: Mapping[str, float], seed: int) -> pd.Series:
    """Fill splits, in their order, with units (sessions or images) of each class; the remaining ones train."""
    if not (min(fractions.values()) > 0 and sum(fractions.values()) < 1):
        options = {"val": "split.val_fraction", "test": "split.test_fraction", VAL_AND_TEST: "split.test_fraction"}
        given = " and ".join(f"{options[part]}={fractions[part]}" for part in reversed(list(fractions)))
        raise UserError(f"{given}: must be above 0 and leave something below 1 to train on")
    part_of: dict[str, str] = {}
    for _, own in units.groupby(table["label"]):
        sizes = Counter(own.to_numpy(dtype=object))  # value_counts takes three times as long
        left = _shuffled(sizes, seed)
        for still, (part, fraction) in zip(range(len(fractions), 0, -1), fractions.items(), strict=True):
            chosen = _fill(left, sizes, wanted=fraction * len(own), most=len(left) - still)
            part_of |= dict.fromkeys(chosen, part)
            left = [unit for unit in left if unit not in part_of]
    return units.map(part_of).fillna("train")


def _fill(units: list[str], sizes: Mapping[str, int], wanted: float, most: int) -> list[str]:
    """At most `most` units that bring the number of images nearer to `wanted`; if none does, the smallest unit."""
    chosen, have = list[str](), 0
    for unit in units:
        if len(chosen) >= most or abs(have + 1 - wanted) >= abs(have - wanted):
            break  # not even a unit of one image would bring it nearer
        if abs(have + sizes[unit] - wanted) < abs(have - wanted):
            chosen.append(unit)
            have += sizes[unit]
    return chosen or sorted(units, key=sizes.__getitem__)[:1]
