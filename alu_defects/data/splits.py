"""Which pictures train, which select the model, which judge it."""

import logging

import pandas as pd
from sklearn.model_selection import train_test_split

from alu_defects.errors import UserError

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def check_held_out(split: str) -> None:
    """Refuse what is not a split that models are evaluated on.

    Raises:
        UserError: neither val nor test.
    """
    if split not in SPLITS[1:]:
        raise UserError(f"split={split} is not one of {', '.join(SPLITS[1:])}")


def random(catalog: pd.DataFrame, *, val_fraction: float, test_fraction: float, seed: int) -> pd.DataFrame:
    """Divide at random into train, val and test, each with every class in the same proportion.

    Returns:
        The catalogue with a column `split`.

    Raises:
        UserError: fractions that leave nothing to train on, a seed out of range, or a class with too few pictures.
    """
    if not (0 < val_fraction < 1 and 0 < test_fraction < 1 and val_fraction + test_fraction < 1):
        raise UserError(
            f"split.val_fraction={val_fraction} and split.test_fraction={test_fraction}: "
            "both must be above 0 and their sum below 1"
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"split.seed={seed} is not between 0 and 2^32 - 1")
    counts = catalog["label"].value_counts()
    if counts.min() < len(SPLITS):
        raise _too_few(str(counts.idxmin()), int(counts.min()))
    # By content, not by position: the same pictures are divided alike wherever and in whichever order they lie.
    order = catalog.sort_values(["sha256", "path"]).index
    held_out = val_fraction + test_fraction
    try:
        train, rest = train_test_split(
            order, test_size=held_out, stratify=catalog.loc[order, "label"], random_state=seed
        )
        val, test = train_test_split(
            rest, test_size=test_fraction / held_out, stratify=catalog.loc[rest, "label"], random_state=seed
        )
    except ValueError as error:  # scikit-learn: fewer pictures in a part than classes
        raise _too_few(str(counts.idxmin()), int(counts.min())) from error
    result = catalog.copy()
    for name, index in zip(SPLITS, (train, val, test), strict=True):
        result.loc[index, "split"] = name
    table = pd.crosstab(result["label"], result["split"])
    if (table == 0).to_numpy().any():
        label = str((table == 0).any(axis=1).idxmax())
        raise _too_few(label, int(counts[label]))
    places = result[["sha256", "split"]].drop_duplicates()
    if leaked := int(places["sha256"].duplicated().sum()):
        log.warning("%d pictures lie in several splits: their files are copies of each other", leaked)
    return result


def _too_few(label: str, count: int) -> UserError:
    return UserError(
        f"class {label} has {count} pictures, too few for one in each of train, val and test; "
        "add pictures, leave the class out, or raise split.val_fraction and split.test_fraction"
    )
