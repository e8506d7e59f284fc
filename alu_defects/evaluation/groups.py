"""Jobs → entries of a comparison: the trainings that differ in nothing but their seed, their folds joined."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from alu_defects.evaluation import statistics
from alu_defects.evaluation.statistics import CLASS_METRICS, Scores, SmallSampleCorrection
from alu_defects.runs.jobs import Job
from alu_defects.training.history import History
from alu_defects.training.metrics import SUMMARY_METRICS


@dataclass(frozen=True)
class Repeat:
    """One network trained once, or once a fold with the folds joined: every test image is in it once.

    Attributes:
        seed: of the training.
        jobs: one, or one a fold.
        predictions: one row a test image, in the order of their content hashes: as `Job.predictions`, with `fold`.
    """

    seed: int
    jobs: list[Job]
    predictions: pd.DataFrame


@dataclass(frozen=True)
class ModelGroup:
    """One row of Table 2: the trainings that differ in nothing but their seed.

    Attributes:
        name: the network, and what else the command line gave for it and not for all.
        model: the network's name.
        jobs: all, also those that failed.
        trainings: the complete ones.
        classes: their names in the order of their ids.
    """

    name: str
    model: str
    jobs: list[Job]
    trainings: list[Repeat]
    classes: list[str]

    @property
    def images(self) -> pd.DataFrame:
        """The test images."""
        return self.trainings[0].predictions

    @property
    def config(self) -> Any:
        """The settings of the first run."""
        return self.trainings[0].jobs[0].run.config()

    def results(self, name: str) -> list[float]:
        """An entry of metrics.json of each run that has it."""
        values = [job.run.metrics().get(name) for training in self.trainings for job in training.jobs]
        return [float(value) for value in values if value is not None]

    @property
    def note(self) -> str:
        """What a reader of the numbers must know."""
        return next((str(job.run.metrics().get("note", "")) for t in self.trainings for job in t.jobs), "")

    def ids(self, training: Repeat, column: str) -> Any:
        """Labels or predictions as class ids (images,)."""
        return pd.Categorical(training.predictions[column], categories=self.classes).codes.astype(np.intp)

    @cached_property
    def measured(self) -> Scores:
        """The metrics, one row a training."""
        every = np.ones((1, len(self.images)))
        return _stacked([statistics.weighted_scores(*self._outcome(t), weights=every) for t in self.trainings], axis=0)

    @cached_property
    def resampled(self) -> Scores:
        """The metrics of resamples of the test images (trainings, resamples, …), whole sessions drawn."""
        groups = self.images["session"].tolist()
        return _stacked([statistics.bootstrap(*self._outcome(t), groups=groups) for t in self.trainings], axis=None)

    @cached_property
    def few(self) -> SmallSampleCorrection:
        """What those resamples lack."""
        return SmallSampleCorrection.of(self.images["label"].tolist(), self.images["session"].tolist())

    def _outcome(self, training: Repeat) -> tuple[Any, Any, int]:
        return self.ids(training, "label"), self.ids(training, "prediction"), len(self.classes)

    def right(self, training: Repeat) -> Any:
        """Whether each image is classified right (images,)."""
        return (training.predictions["label"] == training.predictions["prediction"]).to_numpy()

    def folds(self) -> dict[str, list[float]]:
        """Metric → its value in every fold of every training; empty where nothing was folded."""
        runs = [job.run for training in self.trainings for job in training.jobs if len(training.jobs) > 1]
        return {name: [run.metrics()["test"][name] for run in runs] for name in SUMMARY_METRICS} if runs else {}

    def histories(self) -> list[pd.DataFrame]:
        """metrics.csv of every run that has one."""
        files = [job.run.history_file for training in self.trainings for job in training.jobs]
        return [History(file).table() for file in files if file.is_file()]


def _stacked(parts: Sequence[Scores], axis: int | None) -> Scores:
    def join(values: list[Any]) -> Any:
        return np.stack(values) if axis is None else np.concatenate(values, axis)

    summary = {name: join([part.summary[name] for part in parts]) for name in SUMMARY_METRICS}
    return Scores(summary, *(join([getattr(part, name) for part in parts]) for name in CLASS_METRICS))


def group_jobs(found: Sequence[Job]) -> list[tuple[str, list[Job]]]:
    """Name and jobs that differ in nothing but seed and fold.

    The name is the network's with what the command line gave for some jobs and not for all; where that does not tell
    two groups apart, such as those started from Python, with the settings that do. A job that failed before it became
    a run goes with those of the same words.
    """
    groups: dict[str, list[Job]] = {}
    for job in sorted(found, key=lambda job: job.settings is None):
        same = [key for key, own in groups.items() if (own[0].model, own[0].words) == (job.model, job.words)]
        if job.settings is None:
            key = same[0] if same else json.dumps([job.model, job.words])
        else:
            key = json.dumps([job.model, job.settings], sort_keys=True, default=str)
        groups.setdefault(key, []).append(job)
    shared = set(found[0].words).intersection(*(job.words for job in found))
    parts = list(groups.values())
    names = [" ".join([own[0].model, *(word for word in own[0].words if word not in shared)]) for own in parts]
    names = [_distinct_name(name, own[0], names, parts) for name, own in zip(names, parts, strict=True)]
    numbers = [names[: k + 1].count(name) for k, name in enumerate(names)]
    names = [name if number == 1 else f"{name} ({number})" for name, number in zip(names, numbers, strict=True)]
    return list(zip(names, parts, strict=True))


def _distinct_name(name: str, mine: Job, names: list[str], parts: list[list[Job]]) -> str:
    alike = [own[0].settings for other, own in zip(names, parts, strict=True) if other == name]
    settings = mine.settings or {}
    telling = [key for key in settings if any(other and other.get(key) != settings[key] for other in alike)]
    return " ".join([name, *(f"{key}={settings[key]}" for key in telling)])


def model_groups(found: Sequence[Job]) -> list[ModelGroup]:
    """The entries that jobs make, also those without a complete training."""
    entries = []
    for name, own in group_jobs(found):
        done = sorted((job for job in own if job.status == "finished"), key=lambda job: job.ended)
        seeds = {job.seed: [j for j in done if j.seed == job.seed] for job in done}
        trainings = [made for seed in sorted(seeds) if (made := _repeat(seed, seeds[seed])) is not None]
        classes = list(done[0].run.metrics()["test"]["per_class"]) if done else []
        entries.append(ModelGroup(name, own[0].model, own, trainings, classes))
    return entries


def _repeat(seed: int, found: Sequence[Job]) -> Repeat | None:
    """Join the folds; None where some are missing or do not fit together. Of jobs that are alike the last counts."""
    last = {job.run.config().split.get("fold", 0): job for job in found}
    split = found[0].run.config().split
    if split.name == "kfold" and len(last) < split.k:
        return None
    parts = {fold: job.predictions() for fold, job in sorted(last.items())}
    known = [part.assign(fold=fold) for fold, part in parts.items() if part is not None]
    if len(known) < len(parts):
        return None
    joined = pd.concat(known).sort_index()
    if joined.index.has_duplicates:  # folds of different data
        return None
    return Repeat(seed, [last[fold] for fold in sorted(last)], joined)
