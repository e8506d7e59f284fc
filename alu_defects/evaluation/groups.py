"""Jobs → groups of a comparison: runs that differ in nothing but seed and fold, the folds joined."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alu_defects.evaluation import statistics
from alu_defects.evaluation.operating import class_ids
from alu_defects.evaluation.statistics import Scores, SmallSampleCorrection
from alu_defects.runs.jobs import Job
from alu_defects.runs.run import Run
from alu_defects.training.history import History
from alu_defects.training.metrics import SUMMARY_METRICS


@dataclass(frozen=True)
class Repeat:
    """One network trained once, or once a fold with the folds joined: every test image is in it once."""

    seed: int
    jobs: list[Job]  # one, or one a fold
    parts: list[tuple[pd.DataFrame, pd.DataFrame]]  # `Job.predictions` of each job on its val and on its test images
    predictions: pd.DataFrame  # one row a test image of all parts, in the order of content hashes, with `fold`


@dataclass(frozen=True)
class ModelGroup:
    """One row of Table 2: the runs that differ in nothing but seed and fold."""

    name: str  # the network, and what else the command line gave for it and not for all
    model: str
    jobs: list[Job]  # also those that failed
    repeats: list[Repeat]  # the complete ones, one a seed
    classes: list[str]  # in the order of their ids

    @property
    def images(self) -> pd.DataFrame:
        """The test images."""
        return self.repeats[0].predictions

    @property
    def config(self) -> Any:
        """The settings of the first run."""
        return self.runs[0].config()

    @property
    def runs(self) -> list[Run]:
        """Those of the complete repeats, one a seed and fold."""
        return [job.run for repeat in self.repeats for job in repeat.jobs]

    def results(self, name: str) -> list[float]:
        """A number in metrics.json of each run that has it."""
        values = [run.metrics().get(name) for run in self.runs]
        return [float(value) for value in values if value is not None]

    @property
    def note(self) -> str:
        """What a reader of the numbers must know."""
        return str(self.runs[0].metrics().get("note", "")) if self.repeats else ""

    @property
    def sessions(self) -> list[str]:
        """Those of the test images."""
        return self.images["session"].tolist()

    @cached_property
    def ids(self) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Labels and predictions as class ids (images,), of each repeat."""
        tables = [repeat.predictions for repeat in self.repeats]
        return [(class_ids(t["label"], self.classes), class_ids(t["prediction"], self.classes)) for t in tables]

    @property
    def right(self) -> list[NDArray[np.bool_]]:
        """Whether each image is classified right (images,), of each repeat."""
        return [labels == predicted for labels, predicted in self.ids]

    @cached_property
    def scores(self) -> Scores:
        """The metrics, one row a repeat."""
        classes, every = len(self.classes), np.ones((1, len(self.images)))
        return Scores.join([statistics.weighted_scores(*ids, classes, every) for ids in self.ids])

    @cached_property
    def resampled(self) -> Scores:
        """The metrics of resamples of the test images (repeats, resamples, …), whole sessions drawn."""
        classes, sessions = len(self.classes), self.sessions
        return Scores.join([statistics.bootstrap(*ids, classes, sessions) for ids in self.ids], np.stack)

    @cached_property
    def correction(self) -> SmallSampleCorrection:
        """What those resamples lack."""
        return SmallSampleCorrection.of(self.images["label"].tolist(), self.sessions)

    def folds(self) -> dict[str, list[float]]:
        """Metric → its value in every fold of every repeat; empty where nothing was folded."""
        runs = self.runs if self.repeats and len(self.repeats[0].jobs) > 1 else []
        return {name: [run.metrics()["test"][name] for run in runs] for name in SUMMARY_METRICS} if runs else {}

    def histories(self) -> list[pd.DataFrame]:
        """metrics.csv of every run that has one."""
        return [History(run.history_file).table() for run in self.runs if run.history_file.is_file()]


def group_jobs(jobs: Sequence[Job]) -> list[tuple[str, list[Job]]]:
    """Name and jobs that differ in nothing but seed and fold.

    The name is the network's with what the command line gave for some jobs and not for all; where that is the same for
    two groups, with the settings that differ. A job that failed before it became a run goes with those of the same
    words.
    """
    groups: dict[str, list[Job]] = {}
    for job in sorted(jobs, key=lambda job: job.settings is None):
        same = [key for key, own in groups.items() if (own[0].model, own[0].words) == (job.model, job.words)]
        if job.settings is None:
            key = same[0] if same else json.dumps([job.model, job.words])
        else:
            key = json.dumps([job.model, job.settings], sort_keys=True, default=str)
        groups.setdefault(key, []).append(job)
    shared = set(jobs[0].words).intersection(*(job.words for job in jobs))
    parts = list(groups.values())
    names = [" ".join([own[0].model, *(word for word in own[0].words if word not in shared)]) for own in parts]
    names = [_distinct_name(name, own[0], names, parts) for name, own in zip(names, parts, strict=True)]
    numbers = [names[: k + 1].count(name) for k, name in enumerate(names)]
    names = [name if number == 1 else f"{name} ({number})" for name, number in zip(names, numbers, strict=True)]
    return list(zip(names, parts, strict=True))


def _distinct_name(name: str, job: Job, names: list[str], groups: list[list[Job]]) -> str:
    alike = [own[0].settings for other, own in zip(names, groups, strict=True) if other == name]
    settings = job.settings or {}
    differing = [key for key in settings if any(other and other.get(key) != settings[key] for other in alike)]
    return " ".join([name, *(f"{key}={settings[key]}" for key in differing)])


def model_groups(jobs: Sequence[Job]) -> list[ModelGroup]:
    """The groups that jobs make, also those without a complete repeat."""
    groups = []
    for name, own in group_jobs(jobs):
        done = sorted((job for job in own if job.status == "finished"), key=lambda job: job.ended)
        seeds = {job.seed: [other for other in done if other.seed == job.seed] for job in done}
        repeats = [made for seed in sorted(seeds) if (made := _join_folds(seed, seeds[seed])) is not None]
        classes = list(done[0].run.metrics()["test"]["per_class"]) if done else []
        groups.append(ModelGroup(name, own[0].model, own, repeats, classes))
    return groups


def _join_folds(seed: int, jobs: Sequence[Job]) -> Repeat | None:
    """Join the folds; None where some or their predictions are missing, or do not fit together."""
    last = {job.run.config().split.get("fold", 0): job for job in jobs}  # of jobs that are alike the last counts
    split = jobs[0].run.config().split
    if split.name == "kfold" and len(last) < split.k:
        return None
    own = [last[fold] for fold in sorted(last)]
    read = [(job.predictions("val"), job.predictions()) for job in own]
    parts = [(val, test) for val, test in read if val is not None and test is not None]
    if len(parts) < len(own):
        return None
    tests = [test.assign(fold=fold) for fold, (_, test) in zip(sorted(last), parts, strict=True)]
    joined = pd.concat(tests).sort_index()
    if joined.index.has_duplicates:  # folds of different data
        return None
    return Repeat(seed, own, parts, joined)
