"""Splits: proportions, determinism, what stays together, and what is refused."""

import hashlib
import inspect
import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from alu_defects.config import compose, plain
from alu_defects.data import catalog, splits
from alu_defects.errors import UserError

# images a class in the archive that the paper used, without the class other
TIANCHI = {
    "normal": 1018,
    "non_conductive": 39,
    "scuffed": 136,
    "cross_strip_dent": 47,
    "orange_peel": 90,
    "bottom_leakage": 248,
    "bruise": 77,
    "pit": 54,
    "convex_powder": 43,
    "cracked_coating": 35,
    "dirty_spot": 209,
}


def shots(label: str, sizes: Iterable[int], start: datetime = datetime(2018, 8, 30)) -> pd.DataFrame:
    """Sessions of these sizes: an image every ten seconds, and then an hour's pause."""
    rows = []
    for number, size in enumerate(sizes):
        for shot in range(size):
            name = f"{label}/{number} {shot}.png"
            time = start + timedelta(hours=number, seconds=10 * shot)
            rows.append((name, label, time.isoformat(), hashlib.sha256(os.fsencode(name)).hexdigest()))
    return pd.DataFrame(rows, columns=["path", "label", "time", "sha256"], dtype=str)


def table(**counts: int) -> pd.DataFrame:
    """So many images of each class, none with a time."""
    return pd.concat([shots(label, [1] * count) for label, count in counts.items()], ignore_index=True).assign(time="")


SHOTS = pd.concat(
    [shots("many", [4, 1, 7, 2, 5] * 8), shots("some", [3, 3, 1] * 4), shots("few", [1, 2, 1])], ignore_index=True
)
EVERY = [
    {"name": "auto"},
    {"name": "session"},
    {"name": "random"},
    {"name": "paper"},
    {"name": "paper", "val_fraction": 0.1},
    {"name": "kfold", "k": 3, "fold": 1},
    {"name": "kfold", "k": 4, "by": "image"},
]


def divide(images: pd.DataFrame, name: str, seed: int = 0, **options: Any) -> pd.Series:
    """The split of every path."""
    return splits.split_catalog(images, name=name, seed=seed, **options).set_index("path")["split"]


def counts(images: pd.DataFrame, name: str, **options: Any) -> pd.DataFrame:
    """Images of each class (rows) in each split (columns)."""
    result = splits.split_catalog(images, name=name, **{"seed": 0, **options})
    return pd.crosstab(result["label"], result["split"])


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_right_options_are_accepted_without_images(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    splits.check_split_options(seed=0, **options)
    assert not caplog.records


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_the_seed_and_the_content_decide_not_the_order_of_the_rows(options: dict[str, Any]) -> None:
    images = SHOTS.assign(time=SHOTS["time"].where(SHOTS.index % 9 != 0, ""))  # some are not known
    first = divide(images, **options)
    assert divide(images, **options).equals(first)
    shuffled = images.sample(frac=1, random_state=3)
    assert divide(shuffled, **options).reindex(first.index).equals(first)
    moved = shuffled.assign(path="elsewhere/" + shuffled["path"], split="train").reset_index(drop=True)
    assert divide(moved, **options).reindex("elsewhere/" + first.index).tolist() == first.tolist()
    assert not divide(images, seed=1, **options).equals(first)


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_the_catalog_gains_two_columns(options: dict[str, Any]) -> None:
    result = splits.split_catalog(SHOTS, seed=0, **options)
    pd.testing.assert_frame_equal(result.drop(columns=["session", "split"]), SHOTS)
    assert result["session"].nunique() == 55
    for split in splits.SPLITS:
        assert set(result.loc[splits.in_split(result, split), "label"]) == {"many", "some", "few"}


def test_a_wrong_split_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"split\.name=sesion does not exist; did you mean session\?"):
        divide(SHOTS, "sesion")


@pytest.mark.parametrize("name", splits.SPLITTERS)
def test_the_settings_of_conf_are_the_options_of_the_function(name: str) -> None:
    settings = plain(compose("train", [f"split={name}", *(["split.file=x.csv"] if name == "file" else [])]).split)
    assert settings.pop("name") == name
    options = {p.name: p.default for p in inspect.signature(splits.SPLITTERS[name]).parameters.values()}
    del options["table"]
    assert settings.pop("gap") == inspect.signature(splits.split_catalog).parameters["gap"].default
    assert settings.keys() == options.keys()
    assert all(settings[key] == value for key, value in options.items() if value is not inspect.Parameter.empty)


# rows


def test_val_plus_test_images_are_in_both_splits() -> None:
    divided = pd.DataFrame({"split": ["train", "val", "test", "val+test"]})
    assert splits.in_split(divided, "train").tolist() == [True, False, False, False]
    assert splits.in_split(divided, "val").tolist() == [False, True, False, True]
    assert splits.in_split(divided, "test").tolist() == [False, False, True, True]
    assert splits.selected_on_test(divided)
    assert not splits.selected_on_test(divided[:3])


def test_only_held_out_splits_are_evaluated_on() -> None:
    splits.check_held_out("val")
    with pytest.raises(UserError, match="split=train"):
        splits.check_held_out("train")


# random and paper


def test_every_class_is_split_in_the_same_proportion() -> None:
    result = counts(table(many=200, some=50, few=10), "random", val_fraction=0.1, test_fraction=0.3)
    assert result.loc["many"].to_dict() == {"train": 120, "val": 20, "test": 60}
    assert result.loc["some"].to_dict() == {"train": 30, "val": 5, "test": 15}
    assert result.loc["few"].to_dict() == {"train": 6, "val": 1, "test": 3}


def test_a_rare_class_has_an_image_everywhere() -> None:
    result = counts(table(frequent=500, rare=3), "random", val_fraction=0.05, test_fraction=0.05)
    assert result.loc["rare"].to_dict() == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize("seed", range(3))
def test_the_split_of_the_paper_tests_on_400_of_its_images(seed: int) -> None:
    result = counts(table(**TIANCHI), "paper", seed=seed)
    assert result.sum().to_dict() == {"train": 1596, "val+test": 400}
    assert result["val+test"].to_dict() == {label: round(0.2 * count) for label, count in TIANCHI.items()}


def test_paper_split_takes_validation_images_from_training() -> None:
    images = table(**TIANCHI)
    plain, carved = divide(images, "paper"), divide(images, "paper", val_fraction=0.1)
    assert carved.value_counts().to_dict() == {"train": 1396, "val": 200, "test": 400}
    assert (carved[plain == "val+test"] == "test").all()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["random", "session"])
def test_a_class_with_too_few_images_is_named(name: str, count: int) -> None:
    with pytest.raises(UserError, match=rf"class rare has no images in (train|val): it has {count} in .*add images"):
        divide(table(frequent=50, rare=count), name)


@pytest.mark.parametrize("name", ["random", "session", "paper"])
@pytest.mark.parametrize(
    ("val", "test"), [(-0.1, 0.2), (0.2, 0.0), (0.5, 0.5), (1.2, 0.1), (float("nan"), 0.2), (0.2, float("nan"))]
)
def test_fractions_that_leave_a_split_empty_are_refused(name: str, val: float, test: float) -> None:
    with pytest.raises(UserError, match=rf"split\.val_fraction={val} and split\.test_fraction={test}: must be above 0"):
        divide(table(a=30, b=30), name, val_fraction=val, test_fraction=test)


def test_only_the_paper_split_works_without_validation_images() -> None:
    with pytest.raises(UserError, match=r"split\.val_fraction=0\.0 and"):
        divide(table(a=30, b=30), "session", val_fraction=0.0)
    with pytest.raises(UserError, match=r"^split\.test_fraction=1\.0: must be above 0"):
        divide(table(a=30, b=30), "paper", test_fraction=1.0)


# session


@pytest.mark.parametrize("seed", range(5))
def test_sessions_stay_together_and_fill_the_fractions(seed: int) -> None:
    result = splits.split_catalog(SHOTS, name="session", seed=seed)
    assert not result[["session", "split"]].drop_duplicates()["session"].duplicated().any()
    shares = pd.crosstab(result["label"], result["split"], normalize="index").loc["many"]
    assert shares["test"] == pytest.approx(0.2, abs=0.02)
    assert shares["val"] == pytest.approx(0.2, abs=0.02)


def test_test_images_do_not_depend_on_the_val_fraction() -> None:
    wide, narrow = divide(SHOTS, "session", val_fraction=0.3), divide(SHOTS, "session", val_fraction=0.1)
    assert (wide == "test").equals(narrow == "test")


def test_most_images_stay_where_they_were_when_others_are_added() -> None:
    before = divide(SHOTS, "session")
    added = pd.concat([SHOTS, shots("many", [4, 2, 6], datetime(2019, 1, 1)).assign(path=list("abcdefghijkl"))])
    after = divide(added, "session")
    assert (after.reindex(before.index) == before).mean() > 0.85


def test_a_class_of_one_large_session_and_two_small_ones_trains_on_the_large() -> None:
    result = splits.split_catalog(pd.concat([shots("a", [20, 1, 2]), shots("b", [1] * 9)]), name="session", seed=0)
    assert result.loc[result["label"] == "a", "split"].value_counts()["train"] == 20


def test_a_class_with_two_sessions_is_refused_with_the_fix() -> None:
    images = pd.concat([shots("a", [1] * 9), shots("pit", [20, 20])])
    with pytest.raises(
        UserError, match=r"class pit .* 40 in 2 sessions \(data\.group=time, split\.gap=300 s\); lower split\.gap"
    ):
        divide(images, "session", gap=300)
    assert len(divide(images, "session", gap=5)) == 49


def test_images_without_times_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    divide(SHOTS, "session")
    divide(table(a=9, b=9), "random")
    caplog.clear()
    result = counts(table(a=10, b=25), "session")
    assert result.loc["b"].to_dict() == {"train": 15, "val": 5, "test": 5}
    assert [r.getMessage() for r in caplog.records] == [
        "35 of 35 images have no capture time: each is a session of its own"
    ]


def test_class_names_that_are_not_utf8_are_split() -> None:
    assert len(divide(shots("\udcff\udcfe", [1, 2, 3, 4]), "session")) == 10


def mixed(**pieces: list[str]) -> pd.DataFrame:
    """A catalog with an image of each label in each piece."""
    rows = [(f"{piece}/{n}.png", label, piece) for piece, labels in pieces.items() for n, label in enumerate(labels)]
    found = pd.DataFrame(rows, columns=["path", "label", "piece"], dtype=str).assign(time="", boxes="")
    return found.assign(sha256=[hashlib.sha256(path.encode()).hexdigest() for path in found["path"]])


PIECES = mixed(**{f"p{n}": ["pit"] * (n % 3) + ["scratch"] * (n % 5) + ["good"] * (n % 7) for n in range(1, 120)})


@pytest.mark.parametrize("seed", range(3))
def test_a_piece_of_several_classes_is_in_one_split_and_counts_for_all(seed: int) -> None:
    result = splits.split_catalog(PIECES, name="session", group="piece", seed=seed)
    assert result.groupby("piece")["split"].nunique().max() == 1
    shares = pd.crosstab(result["label"], result["split"], normalize="index")
    assert shares[["val", "test"]].to_numpy() == pytest.approx(np.full((3, 2), 0.2), abs=0.03)


def test_folds_with_pieces_of_several_classes_hold_every_class() -> None:
    tested = []
    for fold in range(4):
        result = splits.split_catalog(PIECES, name="kfold", group="piece", k=4, fold=fold, seed=0)
        assert result.groupby("piece")["split"].nunique().max() == 1
        shares = pd.crosstab(result["label"], result["split"], normalize="index")
        assert shares["test"].between(0.15, 0.35).all()
        tested.append((result["split"] == "test").to_numpy())
    assert (np.sum(tested, axis=0) == 1).all()


# kfold


@pytest.mark.parametrize("by", ["session", "image"])
def test_each_image_is_tested_on_once_and_validates_the_fold_before(by: str) -> None:
    folds = [divide(SHOTS, "kfold", k=3, fold=fold, by=by) for fold in range(3)]
    tested = np.stack([fold == "test" for fold in folds])
    assert (tested.sum(axis=0) == 1).all()
    for fold, (parts, after) in enumerate(zip(folds, [*folds[1:], folds[0]], strict=True)):
        assert ((parts == "val") == (after == "test")).all(), fold
        assert tested[fold].sum() == pytest.approx(len(SHOTS) / 3, abs=4)


def test_folds_keep_sessions_together_or_not() -> None:
    most = {}
    for by in ("session", "image"):
        divided = splits.split_catalog(SHOTS, name="kfold", k=3, by=by, seed=0)
        most[by] = divided.groupby("session")["split"].nunique().max()
    assert most == {"session": 1, "image": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 5}, r"split\.fold=5 must be from 0 to 4"),
        ({"fold": -1}, r"split\.fold=-1 must be"),
        ({"k": 4}, r"class few has 3 sessions, fewer than split\.k=4 folds; lower split\.k"),
        ({"k": 5, "by": "image"}, r"class few has 4 images, fewer than split\.k=5 folds"),
    ],
)
def test_impossible_folds_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        divide(SHOTS, "kfold", **options)


# file


def divide_by(path: Path, images: pd.DataFrame = SHOTS) -> pd.DataFrame:
    return splits.split_catalog(images, name="file", file=str(path))


def test_the_catalog_of_a_run_is_a_split(tmp_path: Path) -> None:
    done = splits.split_catalog(SHOTS, name="paper", seed=5)
    catalog.save_catalog(done, tmp_path / "catalog.csv")
    pd.testing.assert_frame_equal(divide_by(tmp_path / "catalog.csv"), done)


def test_a_split_file_may_have_unknown_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = splits.split_catalog(SHOTS, name="session", seed=0)
    rows = pd.concat([done[["split", "path"]].iloc[::-1], pd.DataFrame({"path": ["x.png"], "split": ["val"]})])
    rows.to_csv(tmp_path / "split.csv", index=False, encoding="utf-8-sig")
    splits.check_split_options(name="file", file=str(tmp_path / "split.csv"))
    assert not caplog.records
    pd.testing.assert_series_equal(divide_by(tmp_path / "split.csv")["split"], done["split"])
    assert "not in the data: 1 image, the first is x.png" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("path,split\na,b,c\n1,2\n1,2,3,4,5\n", "cannot be read"),
        ("path,part\na,train\n", "has no column split, only path, part"),
        ("path,split\na/0.png,tset\n", r"a/0\.png is in 'tset', not in train, val, test or val\+test"),
        ("path,split\na/0.png,train\na/0.png,train\n", r"has 1 paths more than once, the first is a/0\.png"),
        ("path,split\nmany/0 0.png,train\n", r"lacks 183 of the 184 images, the first is many/0 1\.png"),
    ],
)
def test_a_file_that_is_no_split_of_these_images_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"split\.csv.*{message}"):
        divide_by(tmp_path / "split.csv")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            divide_by(path)


def test_a_split_file_without_a_class_in_a_split_is_refused(tmp_path: Path) -> None:
    done = splits.split_catalog(SHOTS, name="session", seed=0)
    done.assign(split=done["split"].replace("val", "train")).to_csv(tmp_path / "split.csv")
    with pytest.raises(UserError, match=r"class few has no images in val: .* let split\.file put some there"):
        divide_by(tmp_path / "split.csv")


# given


def given(**splits_: str) -> pd.DataFrame:
    """An image for each letter, of train, val, test (t, v, e) or none (-), each a session of its own."""
    parts = {"t": "train", "v": "val", "e": "test", "-": ""}
    tables = []
    for label, letters in splits_.items():
        images = shots(label, [1] * len(letters))
        tables.append(images.assign(given_split=[parts[letter] for letter in letters]))
    return pd.concat(tables, ignore_index=True)


def test_a_given_split_is_taken_by_default_and_session_splits_again(caplog: pytest.LogCaptureFixture) -> None:
    images = given(a="tttvve", b="tvetvt")
    with caplog.at_level("INFO"):
        assert divide(images, "auto").tolist() == divide(images, "given").tolist() == images["given_split"].tolist()
    assert caplog.messages == ["split=auto: the data bring a split, so it is split=given"]
    assert splits.resolve("auto", images) == "given"
    again = divide(images, "session")
    assert again.equals(divide(images.drop(columns="given_split"), "auto"))
    assert "split=session splits all images again; that of the data is not used" in caplog.text


def test_a_missing_val_is_held_out_of_train_by_sessions(caplog: pytest.LogCaptureFixture) -> None:
    many = pd.concat([shots("a", [2] * 20), shots("b", [3] * 20)], ignore_index=True)
    images = many.assign(given_split=["test" if number % 40 < 12 else "train" for number in range(len(many))])
    result = splits.split_catalog(images, name="given", seed=0, val_fraction=0.25)
    assert (result["split"] == "test").equals(images["given_split"] == "test")
    train = result[result["split"] != "test"]
    assert train.groupby("session")["split"].nunique().max() == 1
    shares = (train["split"] == "val").groupby(train["label"]).mean()
    assert shares.between(0.2, 0.3).all()
    assert "the given split has no val: held out of train by whole sessions, val (" in caplog.text
    both = splits.split_catalog(images.assign(given_split="train"), name="auto", seed=0)
    assert both["split"].equals(splits.split_catalog(many, name="session", seed=0)["split"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            given(a="tttvve", b="--etvt"),
            "no split for 2 of 12 images, the first is b/0 0.png; give one to each, or take",
        ),
        (given(good="tttvve", bent="eeeeee"), "train holds good only and not bent, as in data for anomaly detection"),
        (given(a="tve", b="tve", c="vee"), "class c has no images in train; add some, or take split=session"),
        (given(a="tve", b="ttv"), "class b has no images in test: .* add images of it to this split, or take split=se"),
        (given(a="tve", b="tve").assign(group=["x", "", "", "", "x", ""]), "group x is in train, val, one of 1 groups"),
    ],
)
def test_a_given_split_that_cannot_be_trained_on_is_refused_with_the_fix(images: pd.DataFrame, message: str) -> None:
    with pytest.raises(UserError, match=message):
        divide(images, "given")
    assert divide(images, "random").notna().all()


def test_a_split_that_is_not_given_cannot_be_taken() -> None:
    with pytest.raises(UserError, match="no split for 184 of 184 images"):
        divide(SHOTS, "given")
