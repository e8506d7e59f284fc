"""Several runs → what they show: scores with their intervals, which differences are real, and where they lie."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alu_defects.evaluation import groups, operating, statistics
from alu_defects.evaluation.calibration import Calibration
from alu_defects.evaluation.groups import ModelGroup
from alu_defects.evaluation.statistics import SmallSampleCorrection
from alu_defects.runs import jobs
from alu_defects.runs.jobs import PROBABILITY_PREFIX, Job
from alu_defects.training.metrics import SUMMARY_METRICS

# Zhang, Sun, Yang 2022, Table 2: accuracy, precision, recall in per cent
PAPER_TABLE2 = {
    "xception": (94.25, 91.7, 92.5),
    "shufflenet": (93.75, 85.7, 85.4),
    "inceptionv4": (96.76, 92.0, 94.4),
    "inceptionv4_scse": (98.00, 97.8, 96.0),
}
ATTENTION_NAME = re.compile(r"_(scse|cse|sse)\b| model\.attention\w*=\S+")  # in the name of an entry
SIGNIFICANCE_LEVEL = 0.05
MIN_SESSIONS = 6


@dataclass(frozen=True)
class Comparison:
    """What several runs show.

    Attributes:
        jobs: every job, whatever became of it.
        entries: those with a complete training, the most accurate first.
    """

    jobs: list[Job]
    entries: list[ModelGroup]

    @classmethod
    def of(cls, folders: Sequence[Path]) -> "Comparison":
        """Read the runs in the folders, each a run folder or a folder of run folders.

        Raises:
            UserError: a folder without runs.
        """
        found = jobs.find_jobs(folders)
        complete = [entry for entry in groups.model_groups(found) if entry.trainings]
        return cls(found, sorted(complete, key=lambda entry: -float(entry.measured.summary["accuracy"].mean())))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a job: settings, status, and the test metrics of its run."""
        names = {id(job): name for name, own in groups.group_jobs(self.jobs) for job in own}
        return pd.DataFrame([_run_row(job, names[id(job)]) for job in self.jobs])

    @cached_property
    def table(self) -> pd.DataFrame:
        """Table 2, one row an entry, as fractions: each metric, its standard deviation over seeds and its interval.

        The interval of accuracy is Wilson's, which takes the images for independent; `accuracy_session_low` and
        `_high` and the other metrics' ends know of sessions (`statistics.summary_interval`).
        """
        return pd.DataFrame([_table_row(entry) for entry in self.entries])

    @cached_property
    def classes(self) -> pd.DataFrame:
        """One row an entry and class: support, and precision, recall and F1 with intervals, as fractions."""
        return pd.DataFrame([row for entry in self.entries for row in _class_rows(entry)])

    @cached_property
    def pairs(self) -> list[tuple[ModelGroup, ModelGroup]]:
        """Entries that were tested on the same images, the more accurate first."""
        return [(a, b) for a, b in itertools.combinations(self.entries, 2) if same_images(a, b)]

    @cached_property
    def differences(self) -> pd.DataFrame:
        """One row a pair on the same images: difference in accuracy and macro F1 with intervals, tests, verdict.

        `p` is the larger of two: of the t test over sessions and trainings, and of the exact McNemar test in the
        training where that is weakest, 1 where trainings disagree about who is better. `p_holm` is corrected for the
        number of pairs; `clear` says that it is below 0.05, `real` that several trainings say so.
        """
        rows = [_difference(a, b) for a, b in self.pairs]
        corrected = statistics.holm([row["p"] for row in rows])
        for row, p in zip(rows, corrected, strict=True):
            row |= {
                "p_holm": p,
                "clear": p < SIGNIFICANCE_LEVEL,
                "real": p < SIGNIFICANCE_LEVEL and row["trainings"] > 1,
            }
        return pd.DataFrame(rows)

    @cached_property
    def attention(self) -> pd.DataFrame:
        """One row a class for each network with attention and the same without: the difference in recall and F1.

        `clear`: the p-value of the difference in recall is below 0.05 after Holm's correction for the classes of
        `MIN_SESSIONS` test sessions or more. Of fewer, a bootstrap of sessions says too little; of one, nothing.
        """
        names = {entry.name: entry for entry in self.entries}
        pairs = [
            (names.get(ATTENTION_NAME.sub("", name)), entry)
            for name, entry in names.items()
            if ATTENTION_NAME.search(name)
        ]
        known = [(plain, attentive) for plain, attentive in pairs if plain is not None]
        return pd.DataFrame([row for a, b in known if same_images(a, b) for row in _attention_rows(a, b)])

    def at_the_line(self, normal: str, max_escape: float) -> pd.DataFrame:
        """One row an entry with such a class: escape and overkill on test at thresholds that each run's val chooses.

        Args:
            normal: the class of good pieces.
            max_escape: the share of defective pieces that may pass.
        """
        able = [entry for entry in self.entries if normal in entry.classes]
        return pd.DataFrame([row for entry in able if (row := _operating_row(entry, normal, max_escape))])

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Every prediction of every complete training, the folds of a cross-validation joined."""
        parts = [
            training.predictions.reset_index().assign(entry=entry.name, seed=training.seed)
            for entry in self.entries
            for training in entry.trainings
        ]
        if not parts:
            return pd.DataFrame()
        table = pd.concat(parts, ignore_index=True)
        first = ["entry", "seed", "fold", "path", "session", "label", "prediction"]
        return table[[*first, *(name for name in table if str(name).startswith(PROBABILITY_PREFIX))]]


def _run_row(job: Job, name: str) -> dict[str, Any]:
    metrics = job.run.metrics() if job.status == "finished" else {}
    test = metrics.get("test", {})
    return {
        "job": job.name,
        "entry": name,
        "model": job.model,
        "seed": job.seed,
        "status": job.status,
        **{metric: test.get(metric) for metric in SUMMARY_METRICS},
        "note": metrics.get("note", ""),
        **{key: metrics.get(key) for key in ("best_epoch", "epochs", "parameters", "multiply_adds", "seconds")},
        "error": job.error,
        "folder": str(job.run.folder),
    }


def _table_row(entry: ModelGroup) -> dict[str, Any]:
    row: dict[str, Any] = {
        "entry": entry.name,
        "trainings": len(entry.trainings),
        "folds": len(entry.trainings[0].jobs),
        "images": len(entry.images),
        "sessions": entry.images["session"].nunique(),
    }
    for metric in SUMMARY_METRICS:
        values = entry.measured.summary[metric]
        resampled, shown = entry.resampled.summary[metric].mean(axis=0), entry.images
        drawn = statistics.summary_interval(
            metric,
            float(values.mean()),
            resampled,
            labels=shown["label"].tolist(),
            groups=shown["session"].tolist(),
            right=[entry.right(training) for training in entry.trainings],
        )
        row |= {metric: values.mean(), f"{metric}_sd": _deviation(values)}
        if metric == "accuracy":
            low, high = statistics.wilson(values.mean() * len(entry.images), len(entry.images))
            row |= {"accuracy_low": low, "accuracy_high": high}
            row |= {"accuracy_session_low": drawn.low, "accuracy_session_high": drawn.high}
        else:
            row |= {f"{metric}_low": drawn.low, f"{metric}_high": drawn.high}
    folds = entry.folds()
    row |= {f"{metric}_fold_sd": _deviation(values) for metric, values in folds.items()}
    speeds = [h["train/images_per_second"].median() for h in entry.histories() if "train/images_per_second" in h]
    row |= {name: _mean(entry.results(name)) for name in ("parameters", "multiply_adds", "seconds")}
    return row | {"images_per_second": _mean(speeds), "note": entry.note} | _of_the_paper(entry)


def _of_the_paper(entry: ModelGroup) -> dict[str, float]:
    """The numbers of the paper's Table 2, where the experiment is the paper's."""
    data, split = entry.config.data, entry.config.split
    same = data.source == "tianchi" and data.round == 1 and not data.include_other and data.image_size == 400
    if not (same and split.name == "paper" and entry.model in PAPER_TABLE2):
        return {}
    return {f"paper_{name}": v / 100 for name, v in zip(SUMMARY_METRICS[:3], PAPER_TABLE2[entry.model], strict=True)}


def _class_rows(entry: ModelGroup) -> list[dict[str, Any]]:
    rows = statistics.per_class(
        entry.classes,
        entry.ids(entry.trainings[0], "label"),
        [entry.ids(training, "prediction") for training in entry.trainings],
        entry.images["session"].tolist(),
        entry.measured,
    )
    return [{"entry": entry.name, **row} for row in rows]


def _operating_row(entry: ModelGroup, normal: str, max_escape: float) -> dict[str, Any] | None:
    outcomes = []
    for training in entry.trainings:
        for job in training.jobs:
            val, test = job.predictions("val"), job.predictions()
            if val is None or test is None:  # a run of before, which kept no predictions on val
                return None
            columns = [PROBABILITY_PREFIX + name for name in entry.classes]
            if val[columns].isna().any(axis=None) or test[columns].isna().any(axis=None):  # it diverged
                return None
            truth = pd.Categorical(val["label"], categories=entry.classes).codes.astype(np.intp)
            calibrated = Calibration.fit(val[columns].to_numpy(float), truth)
            on_val, on_test = (_line(table, entry.classes, normal, calibrated) for table in (val, test))
            if not (operating.both_kinds(on_val[1]) and operating.both_kinds(on_test[1])):
                return None
            threshold = operating.choose_threshold(*on_val, max_escape, groups=val["session"].tolist())
            outcomes.append((threshold, operating.count_outcome(*on_test, threshold.score)))
    escapes, overkills = ([getattr(found, name) for _, found in outcomes] for name in ("escape", "overkill"))
    return {
        "entry": entry.name,
        "runs": len(outcomes),
        "max_escape": max_escape,
        "promised": sum(threshold.promised for threshold, _ in outcomes),
        "bound": max(threshold.bound for threshold, _ in outcomes),
        "bound_together": max(threshold.bound_together for threshold, _ in outcomes),
        "defective": outcomes[0][1].defective,
        "normal": outcomes[0][1].normal,
        "escape": _mean(escapes),
        "escape_sd": _deviation(escapes),
        "overkill": _mean(overkills),
        "overkill_sd": _deviation(overkills),
    }


def _line(table: pd.DataFrame, classes: list[str], normal: str, calibrated: Calibration) -> tuple[Any, Any]:
    """Scores of being defective, and whether each image is."""
    probabilities = calibrated.apply(table[[PROBABILITY_PREFIX + name for name in classes]].to_numpy(float))
    return 1 - probabilities[:, classes.index(normal)], (table["label"] != normal).to_numpy()


def same_images(a: ModelGroup, b: ModelGroup) -> bool:
    """Whether two entries were tested on the same images, with the same labels, classes and sessions."""
    columns = ["label", "session"]
    return a.classes == b.classes and a.images[columns].equals(b.images[columns])


def _difference(a: ModelGroup, b: ModelGroup) -> dict[str, Any]:
    trainings = list(zip(a.trainings, b.trainings, strict=False))
    right = [(a.right(mine), b.right(other)) for mine, other in trainings]
    tests = [statistics.mcnemar(mine, other) for mine, other in right]
    signs = {int(np.sign(mine.sum() - other.sum())) for mine, other in right}
    row: dict[str, Any] = {
        "entry": a.name,
        "other": b.name,
        "trainings": len(trainings),
        "only_right": sum(int((mine & ~other).sum()) for mine, other in right),
        "other_only_right": sum(int((other & ~mine).sum()) for mine, other in right),
    }
    for metric in ("f1", "accuracy"):
        drawn = a.resampled.summary[metric].mean(axis=0) - b.resampled.summary[metric].mean(axis=0)
        found = statistics.difference(a.measured.summary[metric], b.measured.summary[metric], drawn, a.few)
        row |= {metric: found.mean, f"{metric}_low": found.low, f"{metric}_high": found.high}
    weakest = max(tests) if len(signs) == 1 else 1.0
    return row | {"p": max(weakest, found.p), "p_of_each": tests}


def _attention_rows(plain: ModelGroup, attentive: ModelGroup) -> list[dict[str, Any]]:
    rows = []
    for k, name in enumerate(plain.classes):
        own = plain.images[plain.images["label"] == name]
        few = SmallSampleCorrection.of(own["label"].tolist(), own["session"].tolist())
        sessions = own["session"].nunique()
        row: dict[str, Any] = {"entry": attentive.name, "other": plain.name, "class": name}
        row |= {"support": len(own), "sessions": sessions}
        for metric in ("f1", "recall"):
            values, other = (getattr(entry.measured, metric)[:, k] for entry in (attentive, plain))
            drawn, without = (getattr(entry.resampled, metric)[:, :, k].mean(axis=0) for entry in (attentive, plain))
            change = drawn - without if sessions > 1 else np.full(len(drawn), np.nan)  # one session never varies
            found = statistics.difference(values, other, change, few)
            row |= {metric: found.mean, f"{metric}_low": found.low, f"{metric}_high": found.high}
        rows.append(row | {"p": found.p, "p_holm": math.nan, "clear": False})
    tested = [row for row in rows if row["sessions"] >= MIN_SESSIONS]
    for row, p in zip(tested, statistics.holm([row["p"] for row in tested]), strict=True):
        row |= {"p_holm": p, "clear": p < SIGNIFICANCE_LEVEL}
    return rows


def _mean(values: Any) -> float:
    known = np.asarray([value for value in values if not np.isnan(value)], float)
    return float(known.mean()) if len(known) else float("nan")


def _deviation(values: Any) -> float:
    """Standard deviation of the population that the values are drawn from; NaN for one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
