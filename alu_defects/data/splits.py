"""Which images train, which select the model, which test it.

Images of one bar, taken seconds apart, are almost the same. A split that trains on one and tests on the next measures
memory: `session` keeps them together, `paper` and `random` do not. `grouping` finds what belongs together, `leakage`
measures how much that adds to the scores. The default, `auto`, takes the split that the data bring, else `session`.
"""

import hashlib
import inspect
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alu_defects.data import catalog, grouping
from alu_defects.errors import UserError, check_choice, counted

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
NEW = "new"  # labelled images that a run did not have: it is evaluated on them
VAL_AND_TEST = "val+test"  # images that select the model and test it: its score is too good
SELECTED_ON_TEST = "selected on the evaluation images"  # what every report then says


def check_split_options(**options: Any) -> None:
    """Refuse with a `UserError` options of `split_catalog` that are wrong for any images, by splitting none."""
    split_catalog(pd.DataFrame(columns=list(catalog.COLUMNS), dtype=str), **options)


def split_catalog(
    table: pd.DataFrame,
    *,
    name: str,
    gap: float = 60,
    group: str = "time",
    find_similar: grouping.FindSimilar | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Split a catalog; the same images are split in the same way, whatever their order and folder.

    Args:
        table: the catalog, with no two images of the same bytes.
        name: a key of `SPLITTERS`.
        gap: the longest pause within a session, in seconds.
        group: what makes images a session, see `grouping.find_groups`.
        find_similar: finds near-duplicates, for `group` similar and auto.
        options: those of the splitter.

    Returns:
        The catalog with the columns `session` and `split`: train, val, test or val+test. Every class is in all three.

    Raises:
        UserError: no such splitter, an option that it does not have or that is out of range, a wrong split.file, images
            that cannot be grouped, or a class with too few images or sessions.
    """
    check_choice("split.name", name, SPLITTERS)
    try:
        inspect.signature(SPLITTERS[name]).bind(table, **options)
    except TypeError as error:
        raise UserError(f"split.name={name}: {error}; split={name} sets name and options together") from error
    table = table.assign(session=grouping.find_groups(table, group, gap, find_similar))
    if name in ("random", "paper", "kfold", "session") and (given_splits(table) != "").any():
        log.warning("split=%s splits all images again; that of the data is not used, split=given takes it", name)
    meant = resolve(name, table)
    if keeps_groups(name, table, options):
        grouping.check_sizes(table, group)
    table["split"] = SPLITTERS[name](table, **options)
    fix = _FIXES.get(meant, "add images, of which a class needs three, or remove the class")
    by_time = group == "time" or (group == "auto" and (table["time"] != "").any())
    how = f"data.group={group}" + (f", split.gap={gap} s" if by_time else "")
    if meant == "session" and by_time:
        fix = f"lower split.gap, {fix}"
    check_classes(table, table["label"].unique(), f"({how}); {fix}")
    return table


def given_splits(table: pd.DataFrame) -> pd.Series:
    """The split that the data bring for each row of a catalog; "" where they do not."""
    return table["given_split"] if "given_split" in table else pd.Series("", index=table.index, dtype=str)


def resolve(name: str, table: pd.DataFrame) -> str:
    """The splitter that `auto` means for a catalog, given or session; any other name is its own."""
    if name != "auto":
        return name
    return "given" if (given_splits(table) != "").any() else "session"


def keeps_groups(name: str, table: pd.DataFrame, options: Mapping[str, Any]) -> bool:
    """Whether a splitter with these options keeps the images of a group together, whichever split each is in."""
    meant = resolve(name, table)
    return meant == "session" or (meant == "kfold" and options.get("by", "session") == "session")


def count_cut_groups(table: pd.DataFrame) -> int:
    """The groups of a split catalog (its sessions) that have images in several splits."""
    parts = table[["session", "split"]].drop_duplicates()
    return int(parts.loc[parts["session"].duplicated(), "session"].nunique())


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


def auto(table: pd.DataFrame, *, val_fraction: float = 0.2, test_fraction: float = 0.2, seed: int) -> pd.Series:
    """The split that the data bring, see `given`, where they bring one; else whole sessions, see `session`."""
    name = resolve("auto", table)
    if len(table):
        brought = "a split" if name == "given" else "no split"
        log.info("split=auto: the data bring %s, so it is split=%s", brought, name)
    return SPLITTERS[name](table, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)


def given(table: pd.DataFrame, *, val_fraction: float = 0.2, test_fraction: float = 0.2, seed: int) -> pd.Series:
    """Take the split that the data bring: folders named train, val and test, or the column split of a table.

    Of val and test, one without images is held out of train by whole sessions, as in `session`; its fraction is of the
    training images.

    Raises:
        UserError: the data bring no split, or none for some images; a group is in two splits; a class that does not
            train.
    """
    parts = given_splits(table).copy()
    missing = [part for part in ("test", "val") if not in_split(table.assign(split=parts), part).any()]
    fractions = {"test": test_fraction, "val": val_fraction}
    if not len(table):  # only the options are checked
        return session(table, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    if len(without := table.loc[parts == "", "path"]):
        raise UserError(
            f"split=given: the data give no split for {len(without)} of {len(table)} images, the first is "
            f"{without.iloc[0]}; give one to each, or take split=session, which splits all images again"
        )
    if "group" in table:
        named = table[table["group"] != ""]
        counts = parts[named.index].groupby(named["group"]).nunique()
        if len(torn := counts[counts > 1]):
            group = torn.index[0]
            held = ", ".join(sorted(set(parts[named.index[named["group"] == group]])))
            raise UserError(
                f"split=given: group {group} is in {held}, one of {len(torn)} groups that are in several splits; put "
                "all images of a group into one, or take split=session, which splits all images again"
            )
    _check_given_classes(table, parts)
    if missing:
        train = table[parts == "train"]
        parts.update(_hold_out(train, train["session"], {part: fractions[part] for part in missing}, seed))
        what = " and ".join(f"{part} ({counted(int((parts == part).sum()), 'image')})" for part in missing)
        log.warning(
            "the given split has no %s: held out of train by whole sessions, %s", " and no ".join(missing), what
        )
    return parts


def _check_given_classes(table: pd.DataFrame, parts: pd.Series) -> None:
    """Refuse a given split that trains on one class only, as for anomaly detection, or not on all classes."""
    trained, classes = (sorted(set(labels)) for labels in (table["label"][parts == "train"], table["label"]))
    absent = [label for label in classes if label not in trained]
    again = "take split=session, which splits all images again"
    if len(trained) == 1 and absent:
        raise UserError(
            f"split=given: train holds {trained[0]} only and not {', '.join(absent[:3])}, as in data for anomaly "
            f"detection (MVTec-AD); a classifier needs images of each class to train on: {again}"
        )
    if absent:
        raise UserError(f"split=given: class {absent[0]} has no images in train; add some, or {again}")


def session(table: pd.DataFrame, *, val_fraction: float = 0.2, test_fraction: float = 0.2, seed: int) -> pd.Series:
    """Hold out whole sessions: for every class as near to the fractions of its images as sessions allow.

    Sessions are chosen in the order of a hash; those with more than twice the images that are still wanted train. New
    images therefore move few others to another split; scikit-learn's StratifiedGroupKFold would draw all of them again.
    """
    return _hold_out(table, table["session"], {"test": test_fraction, "val": val_fraction}, seed)


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

    Over all folds, from 0 to k - 1, each image tests once. `by` is what stays together: session or image. A session of
    several classes is distributed with the rarest of them and counts for all.

    Raises:
        UserError: an option out of range, or a class with fewer than k of them.
    """
    if not 0 <= fold < k:
        raise UserError(f"split.fold={fold} must be from 0 to {k - 1}, since split.k={k}")
    units = table["session"] if by == "session" else table["sha256"]
    by_class, by_unit = _count(units, table["label"])
    for label, sizes in by_class.items():  # in whichever fold: a cross-validation is whole or not at all
        if len(sizes) < k:
            raise UserError(
                f"class {label} has {len(sizes)} {by}s, fewer than split.k={k} folds; "
                "lower split.k, give another data.group (or a lower split.gap for capture times), or add images"
            )
    folds, total = dict[str, int](), [0] * k
    dealt = {label: [0] * k for label in by_class}
    for label in _rarest_first(by_class, by_unit):
        sizes = by_class[label]
        left = [unit for unit in _shuffled(sizes, seed) if unit not in folds]
        for unit in sorted(left, key=sizes.__getitem__, reverse=True):
            least = min(range(k), key=lambda f: (dealt[label][f], total[f]))
            folds[unit] = least
            for other, count in by_unit[unit].items():
                dealt[other][least] += count
                total[least] += count
    if lacking := [label for label, counts in dealt.items() if not all(counts)]:
        raise UserError(
            f"class {lacking[0]} is not in each of the split.k={k} folds, since its {by}s hold images of rarer classes "
            "too; lower split.k, or add images"
        )
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
        log.warning(
            "%s: not in the data: %s, the first is %s", file, counted(len(strangers), "image"), strangers.iloc[0]
        )
    return table["path"].map(given.set_index("path")["split"])


SPLITTERS: dict[str, Callable[..., pd.Series]] = {
    s.__name__: s for s in (auto, given, session, paper, kfold, random, file)
}
_FIXES = {
    "session": "give another data.group, choose split=random, which splits sessions, or add images: "
    "a class needs three",
    "given": "add images of it to this split, or take split=session, which splits all images again",
    "file": "let split.file put some there; val+test is val and test",
}


def _shuffled(units: Iterable[str], seed: int) -> list[str]:
    """Units in the order of a hash of seed and name: a new unit does not change the order of the others."""
    return sorted(units, key=lambda unit: hashlib.sha256(os.fsencode(f"{seed} {unit}")).digest())


def _hold_out(table: pd.DataFrame, units: pd.Series, fractions: Mapping[str, float], seed: int) -> pd.Series:
    """Fill splits, in their order, with units (sessions or images) of each class; the remaining ones train."""
    if not (min(fractions.values()) > 0 and sum(fractions.values()) < 1):
        options = {"val": "split.val_fraction", "test": "split.test_fraction", VAL_AND_TEST: "split.test_fraction"}
        given = " and ".join(f"{options[part]}={fractions[part]}" for part in reversed(list(fractions)))
        raise UserError(f"{given}: must be above 0 and leave something below 1 to train on")
    by_class, by_unit = _count(units, table["label"])
    wanted = {label: sum(sizes.values()) for label, sizes in by_class.items()}
    part_of: dict[str, str] = {}
    held = {part: Counter[str]() for part in (*fractions, "train")}  # images of each class so far
    for label in _rarest_first(by_class, by_unit):
        left = [unit for unit in _shuffled(by_class[label], seed) if unit not in part_of]
        for part, fraction in (*fractions.items(), ("train", 1.0)):
            later = [p for p in list(held)[list(held).index(part) + 1 :] if not held[p][label]]  # each needs a unit
            chosen = left
            if part != "train":
                missing = {one: fraction * wanted[one] - held[part][one] for one in wanted}
                chosen = _fill({unit: by_unit[unit] for unit in left}, label, missing, most=len(left) - len(later))
                if not chosen and not held[part][label]:
                    chosen = sorted(left, key=lambda unit: sum(by_unit[unit].values()))[:1]
            for unit in chosen:
                part_of[unit] = part
                held[part].update(by_unit[unit])
            left = [unit for unit in left if unit not in part_of]
    return units.map(part_of).fillna("train")


def _fill(units: Mapping[str, Mapping[str, int]], label: str, missing: Mapping[str, float], most: int) -> list[str]:
    """At most `most` units that bring the images of a part nearer to what is wanted.

    Args:
        units: of the class `label`, each with its images of each class; those of other classes count as well.
        label: the class that is distributed.
        missing: images of each class that the part still lacks; below 0 where it has too many.
        most: so many units, so that others remain for the other parts.
    """
    chosen, missing = list[str](), dict(missing)
    for unit, counts in units.items():
        if len(chosen) >= most or abs(missing[label] - 1) >= abs(missing[label]):
            break  # not even a unit of one image would bring it nearer
        if sum(abs(missing[one] - n) - abs(missing[one]) for one, n in counts.items()) < 0:
            chosen.append(unit)
            for one, n in counts.items():
                missing[one] -= n
    return chosen


def _count(units: pd.Series, labels: pd.Series) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """Images by class and unit, and by unit and class; the classes in the order of their names."""
    by_class, by_unit = defaultdict[str, dict[str, int]](dict), defaultdict[str, dict[str, int]](dict)
    pairs = Counter(zip(labels, units, strict=True))  # value_counts takes three times as long
    for (label, unit), count in sorted(pairs.items(), key=lambda pair: pair[0][0]):
        by_class[label][unit] = by_unit[unit][label] = count
    return dict(by_class), dict(by_unit)


def _rarest_first(by_class: Mapping[str, Mapping[str, int]], by_unit: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Classes that share units with others first, of these the one of the fewest units; then the others by name."""
    shared = {label for counts in by_unit.values() if len(counts) > 1 for label in counts}
    return sorted(by_class, key=lambda label: (label not in shared, len(by_class[label]) * (label in shared), label))
