"""A run evaluated on labelled images that it did not have, through the command line."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support

CHOOSE = ["operating.choose_on=new", "operating.normal=plain"]


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    return shutil.copytree(finished_run, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def new(tmp_path):
    """Two of the three classes of the run under other file names, and one that it does not know."""
    rng = np.random.default_rng(7)
    for label in ("across", "plain", "rust"):
        (tmp_path / "line 2" / label).mkdir(parents=True)
        for number in range(6):
            image = rng.integers(90, 130, (48, 64, 3), dtype=np.uint8)
            if label == "across":
                image[:, 20:26] = 230
            Image.fromarray(image).save(tmp_path / "line 2" / label / f"new {number}.png")
    return tmp_path / "line 2"


@pytest.fixture
def mixed(photographs, tmp_path):
    """Some of the images of the run."""
    folder = shutil.copytree(photographs, tmp_path / "mixed")
    shutil.rmtree(folder / "along")
    return folder


def evaluated(typed, run, *words):
    done = typed("evaluate", f"run={run}", "trainer=cpu", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr  # Hydra logs to one of them


def test_classes_that_are_missing_or_unknown_are_said_and_do_not_count(typed, run, new):
    before = {path.name for path in (run / "evaluation").iterdir()}
    compared = (run / "predictions.csv").read_bytes()
    said = evaluated(typed, run, f"data.root={new}")
    assert (run / "predictions.csv").read_bytes() == compared  # what comparisons read
    (name,) = {path.name for path in (run / "evaluation").iterdir()} - before
    assert name.startswith("new_line-2_")
    metrics = json.loads((run / "evaluation" / name / "metrics.json").read_text())
    table = pd.read_csv(run / "evaluation" / name / "predictions.csv")
    there = ["across", "plain"]
    assert sorted(set(table["label"])) == there
    assert set(metrics["new"]["per_class"]) == set(there)
    macro = precision_recall_fscore_support(
        table["label"], table["prediction"], labels=there, average="macro", zero_division=0
    )
    assert [metrics["new"][key] for key in ("precision", "recall", "f1")] == pytest.approx(list(macro[:3]))
    assert metrics["new_images"]["missing_classes"] == ["along"]
    assert metrics["new_images"]["unknown_classes"] == {"rust": 6}
    assert "no images of along" in said
    assert "not counted: 6 images whose class the run does not know: rust (6)" in metrics["note"]
    assert "macro averages are over 2 of 3 classes" in metrics["note"]
    assert "rust (6)" in (run / "evaluation" / name / "report.md").read_text()
    assert json.loads((run / "operating.json").read_text())["chosen_on"]["split"] == "val"


def test_new_images_choose_the_operating_point(typed, run, new, tmp_path):
    words = [f"data.root={new}", f"output={tmp_path / 'out'}", "operating.choose_on=new", "operating.normal=plain"]
    said = evaluated(typed, run, *words)
    chosen = json.loads((run / "operating.json").read_text())["chosen_on"]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert chosen == {"split": "new", "root": str(new), "data_hash": metrics["new_images"]["data_hash"], "images": 12}
    assert "are also those that these are judged on" in said
    said = evaluated(typed, run, f"data.root={new}", f"output={tmp_path / 'out'}")
    assert "it was chosen on 12 new images" in said  # now it is chosen on val again


def test_a_threshold_is_not_lost_to_images_that_cannot_choose_one(typed, run, new):
    evaluated(typed, run, "split=val", "operating.normal=plain")
    before = (run / "operating.json").read_text()
    shutil.rmtree(new / "plain")
    done = typed("evaluate", f"run={run}", "trainer=cpu", f"data.root={new}", *CHOOSE)
    assert done.returncode == 2
    assert "has a threshold, and without both good (plain) and defective images none can be chosen" in done.stderr
    assert (run / "operating.json").read_text() == before


def test_a_part_of_val_does_not_decide_on_new_images(typed, run, new):
    file = run / "evaluation" / "val" / "predictions.csv"
    before = file.read_text()
    file.write_text("".join(before.splitlines(keepends=True)[:-2]))
    done = typed("evaluate", f"run={run}", "trainer=cpu", f"data.root={new}")
    file.write_text(before)
    assert done.returncode == 2, done.stdout
    assert "images of val: a part was evaluated" in done.stderr


def test_training_images_saved_again_are_a_loud_warning(typed, run, photographs, tmp_path):
    for path in photographs.rglob("*.png"):
        copy = tmp_path / "again" / path.parent.name / path.with_suffix(".bmp").name
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(copy)
    said = " ".join(evaluated(typed, run, f"data.root={tmp_path / 'again'}").split())
    trained = (pd.read_csv(run / "catalog.csv")["split"] == "train").sum()
    assert f"{trained} of 36 images look like a training image of the run" in said


def test_training_images_among_new_ones_are_a_loud_warning(typed, run, new, photographs):
    for number in range(12):
        shutil.copy(photographs / "across" / f"across {number}.png", new / "across" / f"copy {number}.png")
    said = evaluated(typed, run, f"data.root={new}")
    catalog = pd.read_csv(run / "catalog.csv")
    trained = int(((catalog["split"] == "train") & (catalog["label"] == "across")).sum())
    assert f"THE SCORES ARE TOO GOOD: {trained} of 24 images have the content of a training image" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["operating.choose_on=new"], "holds images of the run"),
        (["operating.choose_on=test"], "operating.choose_on=test"),
        (["data=folder"], "give their folder as data.root="),
        (["data=tianhci", "data.root={new}"], "tianhci"),
        (["data.root={new}/across"], "none of the classes of the run: "),
        (["data.root={mixed}"], "Give the folder that holds all of them"),
    ],
)
def test_what_is_wrong_is_said(typed, run, new, mixed, words, message):  # noqa: PLR0917
    (new / "across" / "deep").mkdir()
    shutil.move(new / "across" / "new 0.png", new / "across" / "deep" / "new 0.png")
    done = typed("evaluate", f"run={run}", "trainer=cpu", *(word.format(new=new, mixed=mixed) for word in words))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
