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
    """Accuracy of the time-only baseline, where all groups were tested on the same images; of folds, the mean."""
    found = set()
    for group in comparison.groups:
        scored = [job.run.status().get("leakage", {}).get("accuracy") for job in group.repeats[0].jobs]
        found.add(None if None in scored else sum(scored) / len(scored))
    return found.pop() if len(found) == 1 else None


def warnings(comparison: Comparison) -> list[str]:
    """What must be known before a number is read."""
    texts, groups = [], comparison.groups
    if any(SELECTED_ON_TEST in group.note for group in groups):
        texts.append(
            "Each run chose its best epoch on the test images: all scores are too good. "
            "split.val_fraction=0.1 or split=session fixes that."
        )
    if partial := [group.name for group in groups if PARTIAL_NOTE in group.note]:
        texts.append(f"Evaluated on a part of the images only: {', '.join(partial)}. These scores say little.")
    runs = (run for group in groups for run in group.runs)
    texts += dict.fromkeys(f"{note}." for run in runs for note in run.status().get("split_notes", ()))
    baseline = time_only_accuracy(comparison)
    if baseline is not None:
        lowest = dict(zip(comparison.table["group"], comparison.table["accuracy_session_low"], strict=True))
        better = [name for name, low in lowest.items() if low > baseline]
        who = "all models here" if len(better) == len(lowest) else ", ".join(better) or "no model here"
        texts.append(
            f"The time-only baseline, which knows when an image was taken but not its pixels, has "
            f"{100 * baseline:.1f} % accuracy on these test images. Shown to be better: {who}."
        )
    if (number := len({tuple(group.images.index) for group in groups})) > 1:
        texts.append(
            f"The models were tested on {number} different sets of images; only models of the same set are compared."
        )
    finished = comparison.runs[comparison.runs["status"] == "finished"]
    starts = finished.groupby("weights", sort=False)["group"].unique()
    if len(starts) > 1:
        each = "; ".join(f"{', '.join(names)}: {weights}" for weights, names in starts.items())
        texts.append(f"The models started from different weights, which may explain differences. {each}.")
    unfinished = [f"{job.name} {job.status}" for job in comparison.jobs if job.status != "finished"]
    if unfinished:
        texts.append(f"Not finished, and not in the numbers: {', '.join(unfinished)}.")
    incomplete = {row["group"] for row in comparison.runs.to_dict("records") if row["status"] == "finished"}
    incomplete -= {group.name for group in groups}
    if incomplete:
        reason = "some folds or their predictions are missing or do not fit together, so it is not in the numbers"
        texts.append(f"{', '.join(sorted(incomplete))}: {reason}.")
    for group in groups:
        if len({run.status().get("git_commit") for run in group.runs}) > 1:
            texts.append(f"The runs of {group.name} were made by different versions of the code.")
    if any(len(set(group.sessions)) == len(group.images) for group in groups):
        texts.append("No session has two test images: the intervals assume that images are independent.")
    if any(len(set(group.sessions)) < FEW_SESSIONS for group in groups):
        texts.append(f"Fewer than {FEW_SESSIONS} test sessions: too few to say much about other sessions.")
    return texts


def difference_interval(row: Mapping[Any, Any], metric: str) -> str:
    """The interval of a difference, in points."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return "none, as nothing varies" if math.isnan(low) else f"{points(low)} to {points(high)}"


def findings(comparison: Comparison) -> list[str]:
    """Plain sentences: who is best, and which differences are real."""
    table, number = comparison.differences, len(comparison.groups)
    if not len(table):
        few = ["No run has finished.", "One model: nothing to compare with."]
        return [few[number] if number < 2 else "No two models were tested on the same images."]
    real = int(table["real"].sum())
    texts = [f"{real} of {len(table)} differences between models are real by this evidence."]
    if real < len(table):
        texts[0] += f" {'The others' if real else 'They'} may be chance."
    for row in table.to_dict("records"):
        seeds = f"{row['repeats']} seeds each" if row["repeats"] > 1 else "one seed each"
        body = (
            f"{points(abs(row['accuracy']))} points of accuracy "
            f"(95 % interval: {difference_interval(row, 'accuracy')}; "
            f"p {p_value(row['p_holm'], '= ')} after Holm's correction, {seeds})"
        )
        if row["real"]:
            texts.append(f"{row['group']} is better than {row['other']} by {body}.")
        elif row["clear"]:
            texts.append(f"This run of {row['group']} is better than that of {row['other']} by {body}.")
        else:
            texts.append(f"{row['group']} and {row['other']}: {body}; no difference is shown.")
    if (table["repeats"] == 1).any():
        texts.append(
            "One run says nothing about its model: another seed may change the order. Train with several: seed=0,1,2."
        )
    return texts
