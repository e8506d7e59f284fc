"""Several runs → what they show: scores with their intervals, which differences are real, and where they lie."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alu_defects.config import read_size
from alu_defects.evaluation import statistics
from alu_defects.evaluation.groups import ModelGroup, group_jobs, model_groups
from alu_defects.evaluation.operating import OperatingPoint
from alu_defects.evaluation.statistics import SmallSampleCorrection
from alu_defects.runs.jobs import PROBABILITY_PREFIX, Job, find_jobs
from alu_defects.runs.starting_weights import describe
from alu_defects.training.metrics import SUMMARY_METRICS

# Zhang, Sun, Yang 2022, Table 2: accuracy, precision, recall in per cent
PAPER_TABLE2 = {
    "xception": (94.25, 91.7, 92.5),
    "shufflenet": (93.75, 85.7, 85.4),
    "inceptionv4": (96.76, 92.0, 94.4),
    "inceptionv4_scse": (98.00, 97.8, 96.0),
}
ATTENTION_NAME = re.compile(r"_(scse|cse|sse)\b| model\.attention\w*=\S+")  # in the name of a group
SIGNIFICANCE_LEVEL = 0.05
MIN_SESSIONS = 6


@dataclass(frozen=True)
class Comparison:
    """What several runs show."""

    jobs: list[Job]  # all, whatever became of them
    groups: list[ModelGroup]  # those with a complete repeat, the most accurate first

    @classmethod
    def read(cls, folders: Sequence[Path]) -> "Comparison":
        """Read the runs in the folders, each a run folder or a folder of run folders.

        Raises:
            UserError: a folder without runs.
        """
        jobs = find_jobs(folders)
        complete = [group for group in model_groups(jobs) if group.repeats]
        return cls(jobs, sorted(complete, key=lambda group: -float(group.scores.summary["accuracy"].mean())))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a job: settings, status, and the test metrics of its run."""
        names = {id(job): name for name, own in group_jobs(self.jobs) for job in own}
        return pd.DataFrame([_run_row(job, names[id(job)]) for job in self.jobs])

    @cached_property
    def table(self) -> pd.DataFrame:
        """Table 2, one row a group, as fractions: each metric, its standard deviation over seeds and its interval.

        `accuracy_low` and `_high` are Wilson's, of independent images; all others know of sessions.
        """
        return pd.DataFrame([_table_row(group) for group in self.groups])

    @cached_property
    def classes(self) -> pd.DataFrame:
        """One row a group and class: support, and precision, recall and F1 with intervals, as fractions."""
        rows = []
        for group in self.groups:
            labels, predictions = group.ids[0][0], [predicted for _, predicted in group.ids]
            found = statistics.per_class(group.classes, labels, predictions, group.sessions, group.scores)
            rows += [{"group": group.name, **row} for row in found]
        return pd.DataFrame(rows)

    @cached_property
    def pairs(self) -> list[tuple[ModelGroup, ModelGroup]]:
        """Groups that were tested on the same images, the more accurate first."""
        return [(a, b) for a, b in itertools.combinations(self.groups, 2) if same_images(a, b)]

    @cached_property
    def differences(self) -> pd.DataFrame:
        """One row a pair on the same images: difference in accuracy and macro F1 with intervals, tests, verdict.

        `p` is the larger of two: of the t test over sessions and repeats, and of the exact McNemar test in the
        repeat where that is weakest, 1 where repeats disagree about who is better. `p_holm` is corrected for the
        number of pairs; `clear` says that it is below 0.05, `real` that several repeats say so.
        """
        rows = [_difference(a, b) for a, b in self.pairs]
        corrected = statistics.holm([row["p"] for row in rows])
        for row, p in zip(rows, corrected, strict=True):
            clear = p < SIGNIFICANCE_LEVEL
            row |= {"p_holm": p, "clear": clear, "real": clear and row["repeats"] > 1}
        return pd.DataFrame(rows)

    @cached_property
    def attention(self) -> pd.DataFrame:
        """One row a class for each network with attention and the same without: the difference in recall and F1.

        `clear`: the p-value of the difference in recall is below 0.05 after Holm's correction for the classes of
        `MIN_SESSIONS` test sessions or more. Of fewer, a bootstrap of sessions says too little; of one, nothing.
        """
        names, rows = {group.name: group for group in self.groups}, []
        for name, group in names.items():
            plain = names.get(ATTENTION_NAME.sub("", name))
            if ATTENTION_NAME.search(name) and plain and same_images(plain, group):
                rows += _attention_rows(plain, group)
        return pd.DataFrame(rows)

    def operating_points(self, options: Mapping[str, Any]) -> pd.DataFrame:
        """One row a group with a normal class: escape and overkill on test at thresholds that val chooses."""
        return pd.DataFrame([row for group in self.groups if (row := _operating_row(group, options))])

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Every prediction of every complete repeat, the folds of a cross-validation joined."""
        parts = [
            repeat.predictions.reset_index().assign(group=group.name, seed=repeat.seed)
            for group in self.groups
            for repeat in group.repeats
        ]
        if not parts:
            return pd.DataFrame()
        table = pd.concat(parts, ignore_index=True)
        first = ["group", "seed", "fold", "path", "session", "label", "prediction"]
        return table[[*first, *(name for name in table if str(name).startswith(PROBABILITY_PREFIX))]]


def _run_row(job: Job, name: str) -> dict[str, Any]:
    metrics = job.run.metrics() if job.status == "finished" else {}
    return {
        "job": job.name,
        "group": name,
        "model": job.model,
        "seed": job.seed,
        "status": job.status,
        **{metric: metrics.get("test", {}).get(metric) for metric in SUMMARY_METRICS},
        "note": metrics.get("note", ""),
        **{key: metrics.get(key) for key in ("best_epoch", "epochs", "parameters", "multiply_adds", "seconds")},
        "weights": describe(start) if (start := job.run.status().get("weights")) else "–",  # of a job without a run
        "error": job.error,
        "folder": str(job.run.folder),
    }


def _table_row(group: ModelGroup) -> dict[str, Any]:
    row: dict[str, Any] = {"group": group.name, "repeats": len(group.repeats), "folds": len(group.repeats[0].jobs)}
    row |= {"images": len(group.images), "sessions": len(set(group.sessions))}
    labels = group.images["label"].tolist()
    for metric in SUMMARY_METRICS:
        values = group.scores.summary[metric]
        value, resampled = float(values.mean()), group.resampled.summary[metric].mean(axis=0)
        ends = statistics.summary_interval(metric, value, resampled, labels=labels, groups=group.sessions)
        row |= {metric: value, f"{metric}_sd": _deviation(values)}
        name = metric
        if metric == "accuracy":
            low, high = statistics.wilson(value * len(labels), len(labels))
            row |= {"accuracy_low": low, "accuracy_high": high}
            name = "accuracy_session"
        row |= {f"{name}_low": ends.low, f"{name}_high": ends.high}
    row |= {f"{metric}_fold_sd": _deviation(values) for metric, values in group.folds().items()}
    speeds = [h["train/images_per_second"].median() for h in group.histories() if "train/images_per_second" in h]
    row |= {name: _mean(group.results(name)) for name in ("parameters", "multiply_adds", "seconds")}
    return row | {"images_per_second": _mean(speeds), "note": group.note} | _paper_numbers(group)


def _paper_numbers(group: ModelGroup) -> dict[str, float]:
    """The numbers of the paper's Table 2, where the experiment is the paper's."""
    data, split = group.config.data, group.config.split
    same = data.source == "tianchi" and data.round == 1 and not data.include_other
    same = same and data.image_size != "auto" and read_size(data.image_size) == (400, 400)
    if not (same and split.name == "paper" and group.model in PAPER_TABLE2):
        return {}
    return {f"paper_{name}": v / 100 for name, v in zip(SUMMARY_METRICS[:3], PAPER_TABLE2[group.model], strict=True)}


def _operating_row(group: ModelGroup, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """None without a normal class, without good and defective images, or where the network has diverged."""
    thresholds, outcomes = [], []
    for val, test in (part for repeat in group.repeats for part in repeat.parts):
        point = OperatingPoint.choose(val, val["session"].tolist(), options)
        if point is None or point.threshold is None or (outcome := point.outcome(test)) is None:
            return None
        thresholds.append(point.threshold)
        outcomes.append(outcome)
    row = {
        "group": group.name,
        "runs": len(outcomes),
        "max_escape": options["max_escape"],
        "confidence_level": options["confidence_level"],
        "promised": sum(threshold.promised for threshold in thresholds),
        "bound": max(threshold.bound for threshold in thresholds),
        "bound_together": max(threshold.bound_together for threshold in thresholds),
        "defective": outcomes[0].defective,
        "normal": outcomes[0].normal,
    }
    for name in ("escape", "overkill"):
        rates = [getattr(outcome, name) for outcome in outcomes]
        row |= {name: _mean(rates), f"{name}_sd": _deviation(rates)}
    return row


def same_images(a: ModelGroup, b: ModelGroup) -> bool:
    """Whether two groups were tested on the same images, with the same labels, classes and sessions."""
    columns = ["label", "session"]
    return a.classes == b.classes and a.images[columns].equals(b.images[columns])


def _difference(a: ModelGroup, b: ModelGroup) -> dict[str, Any]:
    right = list(zip(a.right, b.right, strict=False))
    tests = [statistics.mcnemar(own, other) for own, other in right]
    signs = {int(np.sign(own.sum() - other.sum())) for own, other in right}
    row: dict[str, Any] = {
        "group": a.name,
        "other": b.name,
        "repeats": len(right),
        "only_right": sum(int((own & ~other).sum()) for own, other in right),
        "other_only_right": sum(int((other & ~own).sum()) for own, other in right),
    }
    for metric in ("f1", "accuracy"):
        drawn = a.resampled.summary[metric].mean(axis=0) - b.resampled.summary[metric].mean(axis=0)
        found = statistics.difference(a.scores.summary[metric], b.scores.summary[metric], drawn, a.correction)
        row |= {metric: found.mean, f"{metric}_low": found.low, f"{metric}_high": found.high}
    weakest = max(tests) if len(signs) == 1 else 1.0
    return row | {"p": max(weakest, found.p), "p_of_each": tests}


def _attention_rows(plain: ModelGroup, attentive: ModelGroup) -> list[dict[str, Any]]:
    rows = []
    for k, name in enumerate(plain.classes):
        own = plain.images[plain.images["label"] == name]
        correction = SmallSampleCorrection.of(own["label"].tolist(), own["session"].tolist())
        sessions = own["session"].nunique()
        row: dict[str, Any] = {"group": attentive.name, "other": plain.name, "class": name}
        row |= {"support": len(own), "sessions": sessions}
        for metric in ("f1", "recall"):
            values, other = (getattr(group.scores, metric)[:, k] for group in (attentive, plain))
            drawn, without = (getattr(group.resampled, metric)[:, :, k].mean(axis=0) for group in (attentive, plain))
            change = drawn - without if sessions > 1 else np.full(len(drawn), np.nan)  # one session never varies
            found = statistics.difference(values, other, change, correction)
            row |= {metric: found.mean, f"{metric}_low": found.low, f"{metric}_high": found.high}
        rows.append(row | {"p": found.p, "p_holm": math.nan, "clear": False})
    tested = [row for row in rows if row["sessions"] >= MIN_SESSIONS]
    for row, p in zip(tested, statistics.holm([row["p"] for row in tested]), strict=True):
        row |= {"p_holm": p, "clear": p < SIGNIFICANCE_LEVEL}
    return rows


def _mean(values: Any) -> float:
    return float(pd.Series(values, dtype=float).mean())  # without those that are NaN


def _deviation(values: Any) -> float:
    """Standard deviation of the population that the values are drawn from; NaN for one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
