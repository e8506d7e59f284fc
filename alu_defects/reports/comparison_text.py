"""A comparison in plain words: what must be known before a number is read, and which differences are real."""

import math
from collections.abc import Mapping
from typing import Any

from alu_defects.data.splits import SELECTED_ON_TEST
from alu_defects.evaluation.comparison import Comparison
from alu_defects.evaluation.predictions import PARTIAL_NOTE
from alu_defects.reports.terminal import p_value, points

FEW_SESSIONS = 10


def time_only_accuracy(comparison: Comparison) -> float | None:
    """Accuracy of a predictor that sees only capture times, where all entries were tested on the same images.

    Of folds, the mean.
    """
    found = set()
    for entry in comparison.entries:
        scored = [job.run.status().get("leakage", {}).get("accuracy") for job in entry.trainings[0].jobs]
        found.add(None if None in scored else sum(scored) / len(scored))
    return found.pop() if len(found) == 1 else None


def warnings(comparison: Comparison) -> list[str]:
    """What must be known before a number is read."""
    texts = []
    if any(SELECTED_ON_TEST in entry.note for entry in comparison.entries):
        texts.append(
            "Each run chose its best epoch on the very images that judge it: all scores are too good. "
            "split.val_fraction=0.1 or split=session fixes that."
        )
    if partial := [entry.name for entry in comparison.entries if PARTIAL_NOTE in entry.note]:
        texts.append(f"Evaluated on a part of the images only: {', '.join(partial)}. These scores say little.")
    beaten = time_only_accuracy(comparison)
    if beaten is not None:
        lowest = dict(zip(comparison.table["entry"], comparison.table["accuracy_session_low"], strict=True))
        better = [name for name, low in lowest.items() if low > beaten]
        verdict = (
            f"shown to be better are only {', '.join(better)}" if better else "no model here is shown to be better"
        )
        if len(better) == len(lowest):
            verdict = "all models here are shown to be better"
        texts.append(
            f"The clock alone, a predictor that sees when an image was taken and no pixels, has {beaten:.1%} "
            "accuracy on these test images; ".replace("%", " %")
            + verdict
            + "."
        )
    groups = {tuple(entry.images.index) for entry in comparison.entries}
    if len(groups) > 1:
        texts.append(
            f"The rows were tested on {len(groups)} different sets of images; only rows of the same set are compared."
        )
    unfinished = [f"{job.name} {job.status}" for job in comparison.jobs if job.status != "finished"]
    if unfinished:
        texts.append(f"Not finished, and not in the numbers: {', '.join(unfinished)}.")
    incomplete = {row["entry"] for row in comparison.runs.to_dict("records") if row["status"] == "finished"}
    incomplete -= {entry.name for entry in comparison.entries}
    if incomplete:
        reason = "some folds or their predictions are missing or do not fit together, so it is not in the numbers"
        texts.append(f"{', '.join(sorted(incomplete))}: {reason}.")
    for entry in comparison.entries:
        runs = [job.run.status() for training in entry.trainings for job in training.jobs]
        if len({run.get("git_commit") for run in runs}) > 1:
            texts.append(f"The trainings of {entry.name} were made by different versions of the code.")
    if any(not entry.images["session"].duplicated().any() for entry in comparison.entries):
        texts.append("No session has two test images: the intervals take each for independent of the others.")
    if any(entry.images["session"].nunique() < FEW_SESSIONS for entry in comparison.entries):
        texts.append(f"Fewer than {FEW_SESSIONS} test sessions: too few to say much about other sessions.")
    return texts


def difference_interval(row: Mapping[Any, Any], metric: str) -> str:
    """The interval of a difference, in points."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return "none, as nothing varies" if math.isnan(low) else f"{points(low)} to {points(high)}"


def findings(comparison: Comparison) -> list[str]:
    """Plain sentences: who is best, and which differences are real."""
    table = comparison.differences
    if not len(table):
        number = len(comparison.entries)
        alone = ["No run has finished."] if number == 0 else ["One model: nothing to compare with."]
        return alone if number < 2 else ["No two rows were tested on the same images."]
    real = int(table["real"].sum())
    texts = [f"{real} of {len(table)} differences between models are real by this evidence."]
    if real < len(table):
        texts[0] += f" {'The others' if real else 'They'} may be chance."
    for row in table.to_dict("records"):
        trainings = int(row["trainings"])
        tested = f"p {p_value(row['p_holm'], '= ')} after Holm's correction, "
        tested += f"{trainings} trainings each" if trainings > 1 else "one training each"
        body = f"{points(abs(row['accuracy']))} points of accuracy (95 % interval: {difference_interval(row, 'accuracy')}; {tested})"
        if row["real"]:
            texts.append(f"{row['entry']} is better than {row['other']} by {body}.")
        elif row["clear"]:
            texts.append(f"This training of {row['entry']} is better than that of {row['other']} by {body}.")
        else:
            texts.append(f"{row['entry']} and {row['other']}: {body}; no difference is shown.")
    if (table["trainings"] == 1).any():
        texts.append(
            "One training says nothing about its model: another seed may turn it round. Train from several, seed=0,1,2."
        )
    return texts
