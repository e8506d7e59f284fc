"""Does it learn, and how well? Trains one job after the other: `python benchmarks/learning.py networks`.

    networks      the paper's four networks at their defaults on the generated images, three seeds each
    robustness    recipes on six sets of images, beside a majority class and a logistic regression on thumbnails
    transfer      the weights of generated surfaces beside none, on sets of few and of many images

A finished job is a row of benchmarks/learning_<table>.csv; what has a row is not trained again, so a table that was
stopped continues. `--neu` is the folder of the NEU surface defect database: six class folders of 300 images.
"""

import argparse
import csv
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

from alu_defects.config import compose
from alu_defects.data import splits
from alu_defects.data.catalog import Root
from alu_defects.runs.run import Run
from alu_defects.synthetic import SyntheticOptions, ensure_written
from alu_defects.tianchi_classes import CLASSES
from alu_defects.train import train

Job = dict[str, Any]  # the columns that identify a row
Words = list[str]  # of the command line

MODELS = ("shufflenet", "xception", "inceptionv4", "inceptionv4_scse")
# all from scratch; before: what experiment=photographs was until budgets were counted in steps
_SCRATCH = ["experiment=photographs", "model.pretrained=false"]
_BEFORE = [
    *_SCRATCH,
    "data.image_size=128",
    "data.batch_size=32",
    "optimizer.lr=0.004",
    "trainer.max_epochs=40",
    "optimizer.decay_norms=true",
]
RECIPES: dict[str, Words] = {
    "before": _BEFORE,
    "default": _SCRATCH,
    "surfaces": ["experiment=photographs", "model.pretrained=surfaces"],
    "auto-frame": [*_SCRATCH, "data.image_size=auto"],  # as many pixels in the shape of the images
    # why `before` may not learn: one change of it at a time
    "rate": [*_BEFORE, "optimizer.lr=0.001"],
    "warm-up": [*_BEFORE, "scheduler=cosine"],
    "class-weights": [*_BEFORE, "loss.class_weights=balanced"],
    "class-weights-warm-up": [*_BEFORE, "loss.class_weights=balanced", "scheduler=cosine"],
    "sampler": [*_BEFORE, "data.sampler=balanced"],
    "shape": [*_BEFORE, "data.image_size=[72,224]"],  # of twin_grey; as many pixels as 128x128
    "pixels": [*_BEFORE, "data.image_size=224"],
    "batch": [*_BEFORE, "data.batch_size=16", "trainer.max_epochs=20"],  # as many steps
    "steps": [*_BEFORE, "trainer.max_epochs=160"],
}
THUMBNAIL_SIDE = 32  # pixels
# table → sets and recipes
TABLES = {
    "robustness": (("neu", "neu_unbalanced", "neu_20", "twin", "twin_real", "twin_grey"), ("before", "default")),
    "transfer": (
        ("neu_5", "neu_20", "neu_100", "neu", "neu_unbalanced", "twin", "twin_third"),
        ("default", "surfaces"),
    ),
}


def _neu(neu: Path, scratch: Path) -> Words:
    return [f"data.root={neu}"]


def _neu_unbalanced(neu: Path, scratch: Path) -> Words:
    """All 300 images of one class, 24 or 25 of each other: 71 % are of the first."""
    root = scratch / "neu_unbalanced"
    for number, folder in enumerate(_class_folders(neu)):
        _link(sorted(folder.iterdir())[: 300 if number == 0 else 24 + number % 2], root / folder.name)
    return [f"data.root={root}"]


def _neu_few(images: int, neu: Path, scratch: Path) -> Words:
    """Some images of each class train, 10 select the epoch, all others test it."""
    file = scratch / f"neu_{images}.csv"
    parts = ["train"] * images + ["val"] * 10 + ["test"] * (290 - images)
    with file.open("w", newline="") as written:
        writer = csv.writer(written)
        writer.writerow(["path", "split"])
        for folder in _class_folders(neu):
            files = np.random.default_rng(0).permutation(sorted(path.name for path in folder.iterdir()))
            writer.writerows((f"{folder.name}/{name}", part) for name, part in zip(files, parts, strict=True))
    return [f"data.root={neu}", "split=file", f"split.file={file}"]


def _twin(neu: Path, scratch: Path) -> Words:
    return ["data=synthetic"]


def _twin_third(neu: Path, scratch: Path) -> Words:
    """A third of the steps of `experiment=photographs`."""
    return ["data=synthetic", "model.steps=667"]


def _twin_real(neu: Path, scratch: Path) -> Words:
    return ["data=synthetic", "data.synthetic.images=800", "data.synthetic.balance=real"]


def _twin_grey(neu: Path, scratch: Path) -> Words:
    """800 grey images of 960x320, half of them normal, with faint defects; names and sessions as in the archives."""
    made = ensure_written(scratch / "twin", SyntheticOptions(800, "real", severity=0.4, size=(960, 320)))
    root = scratch / "twin_grey"
    classes = {kind.folder: kind.name for kind in CLASSES}
    for path in sorted(made.rglob("*.jpg")):
        if (kind := classes.get(path.parent.name)) and not (target := root / kind / path.name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            ImageOps.grayscale(Image.open(path)).save(target, quality=90)
    return [f"data.root={root}"]


SETS: dict[str, Callable[[Path, Path], Words]] = {
    "neu": _neu,
    "neu_unbalanced": _neu_unbalanced,
    "neu_5": partial(_neu_few, 5),
    "neu_20": partial(_neu_few, 20),
    "neu_100": partial(_neu_few, 100),
    "twin": _twin,
    "twin_third": _twin_third,
    "twin_real": _twin_real,
    "twin_grey": _twin_grey,
}


def _class_folders(neu: Path) -> list[Path]:
    return sorted(path for path in neu.iterdir() if path.is_dir())


def _link(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not (link := folder / file.name).exists():
            link.symlink_to(file.resolve())


def baselines(root: Root, table: pd.DataFrame) -> dict[str, float]:
    """Scores on test of the majority class of train, and of a logistic regression on grey thumbnails.

    Its C is chosen by cross-validation on the training images (scikit-learn's LogisticRegressionCV).
    """
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = (table[splits.in_split(table, split)] for split in ("train", "test"))
    folds = StratifiedKFold(min(5, train["label"].value_counts().min()))
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-5, 1, 7), cv=folds, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a C that does not converge scores as it scores
        model.fit(_thumbnails(root, train), train["label"])
    predicted = model.predict(_thumbnails(root, test))
    majority = [train["label"].mode()[0]] * len(test)
    return {
        f"{name} {metric}": score(test["label"], labels, **options)
        for name, labels in (("majority", majority), ("thumbnails", predicted))
        for metric, score, options in (("accuracy", accuracy_score, {}), ("f1", f1_score, {"average": "macro"}))
    }


def _thumbnails(root: Root, table: pd.DataFrame) -> NDArray[np.float64]:
    def thumbnail(path: str) -> NDArray[np.uint8]:
        with Image.open(root / path) as image:
            return np.asarray(ImageOps.grayscale(image).resize((THUMBNAIL_SIDE,) * 2, Image.Resampling.BOX)).ravel()

    return np.array([thumbnail(path) for path in table["path"]], dtype=np.float64) / 255


def run_job(words: Words, folder: Path) -> dict[str, Any]:
    """Train, or continue a run that was stopped; returns what the table says of it."""
    if not folder.exists():
        results = train(compose("train", [*words, f"run_dir={folder}"]))
    elif Run(folder).status()["status"] == "finished":
        results = Run(folder).metrics()
    else:
        results = train(compose("train", [f"resume={folder}"]))
    test, status = results["test"], Run(folder).status()
    return {
        "image size": "x".join(map(str, status["image_size"])),
        "threads": "-".join(map(str, sorted(set(status["threads"])))),  # of the processor, fewer beside other programs
        "epochs": results["epochs"],
        "minutes": round(results["seconds"] / 60, 2),
        "val f1": results["val"]["f1"],
        **{f"test {name}": test[name] for name in ("accuracy", "precision", "recall", "f1")},
    }


def measure(file: Path, jobs: Iterable[tuple[Job, Words]], runs: Path, *, with_baselines: bool) -> None:
    """Run the jobs that have no row in a CSV file yet, and add their rows."""
    for job, words in jobs:
        known = _read_rows(file, list(job))
        if (known[list(job)] == pd.Series(job).astype(str)).all(axis=1).any():
            continue
        folder = runs / "_".join(str(value) for value in job.values())
        row: Mapping[str, Any] = job | run_job(words, folder)
        if with_baselines:
            run = Run(folder)
            row = dict(row) | baselines(run.data_root(), run.catalog())
        known = _read_rows(file, list(job))  # again: another process may have added rows
        table = pd.concat([known, pd.DataFrame([row])], ignore_index=True)
        table.to_csv(file, index=False, float_format="%.4f")
        print(pd.Series(dict(row)).to_string(), flush=True)


def _read_rows(file: Path, columns: list[str]) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str) if file.exists() else pd.DataFrame(columns=columns)


def main() -> None:
    """Measure a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("networks", *TABLES))
    parser.add_argument("--neu", type=Path, help="the folder of the NEU images; the networks do not need it")
    parser.add_argument("--scratch", type=Path, default=Path("runs/learning"), help="runs and generated sets")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--sets", nargs="+", choices=list(SETS))
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES))
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="NAME=RUN", help="a recipe from the weights of a run"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, help="the CSV file")
    parser.add_argument("words", nargs="*", help="further settings")
    options = parser.parse_intermixed_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    if options.table != "networks" and options.neu is None:
        parser.error(f"{options.table} needs --neu")
    file = options.output or Path(__file__).parent / f"learning_{options.table}.csv"
    jobs = [(job, [*words, *options.words]) for job, words in _jobs(options)]
    measure(file, jobs, options.scratch / options.table, with_baselines=options.table == "robustness")


def _jobs(options: argparse.Namespace) -> Iterator[tuple[Job, Words]]:
    if options.table == "networks":
        for seed, model in product(options.seeds, options.models):
            yield {"model": model, "seed": seed}, [f"model={model}", f"seed={seed}"]
        return
    started = dict(word.split("=", 1) for word in options.weights)
    recipes = RECIPES | {name: ["experiment=photographs", f"model.weights={run}"] for name, run in started.items()}
    sets, names = TABLES[options.table]
    for seed, name, recipe in product(options.seeds, options.sets or sets, options.recipes or started or names):
        words = [*recipes[recipe], *SETS[name](options.neu, options.scratch), f"seed={seed}"]
        yield {"set": name, "recipe": recipe, "seed": seed}, words


if __name__ == "__main__":
    main()
