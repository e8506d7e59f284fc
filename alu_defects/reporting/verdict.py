"""A comparison in plain words: what must be known before a number is read, and which differences are real."""

from alu_defects.data.splits import SELECTED_ON_TEST
from alu_defects.reporting.comparison import Comparison
from alu_defects.reporting.text import p_value, points


def clock(comparison: Comparison) -> float | None:
    """Accuracy of a predictor that sees only capture times, where all entries were tested on the same pictures.

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
    if any(entry.note == SELECTED_ON_TEST for entry in comparison.entries):
        texts.append(
            "Each run chose its best epoch on the very pictures that judge it: all scores are too good. "
            "split.val_fraction=0.1 or split=session mends that."
        )
    beaten = clock(comparison)
    if beaten is not None:
        better = [e.name for e in comparison.entries if e.measured.summary["accuracy"].mean() > beaten]
        verdict = "no model here is better" if not better else f"better are only {', '.join(better)}"
        if len(better) == len(comparison.entries):
            verdict = "all models here are better"
        texts.append(
            f"The clock alone, a predictor that sees when a picture was taken and no pixels, has {beaten:.1%} "
            "accuracy on these test pictures; ".replace("%", " %")
            + verdict
            + "."
        )
    groups = {tuple(entry.pictures.index) for entry in comparison.entries}
    if len(groups) > 1:
        texts.append(
            f"The rows were tested on {len(groups)} different sets of pictures; only rows of the same set are compared."
        )
    unfinished = [f"{job.name} {job.status}" for job in comparison.jobs if job.status != "finished"]
    if unfinished:
        texts.append(f"Not finished, and not in the numbers: {', '.join(unfinished)}.")
    incomplete = {row["entry"] for row in comparison.runs.to_dict("records") if row["status"] == "finished"}
    incomplete -= {entry.name for entry in comparison.entries}
    if incomplete:
        texts.append(
            f"{', '.join(sorted(incomplete))}: some folds are missing, and what there is, is not in the numbers."
        )
    if any(not entry.pictures["session"].duplicated().any() for entry in comparison.entries):
        texts.append("The pictures have no sessions: the intervals take each for independent of the others.")
    return texts


def findings(comparison: Comparison) -> list[str]:
    """Plain sentences: who is best, and which differences are real."""
    table = comparison.differences
    if not len(table):
        return [] if len(comparison.entries) > 1 else ["One model: nothing to compare with."]
    real = table[table["real"]]
    head = f"{len(real)} of {len(table)} differences between models {'is' if len(real) == 1 else 'are'} real by this "
    texts = [head + "evidence; the others may be chance."]
    for row in table.to_dict("records"):
        trainings = int(row["trainings"])
        span = f"{points(row['accuracy_low'])} to {points(row['accuracy_high'])}"
        tested = f"p {p_value(row['p_holm'], '= ')} after Holm's correction"
        tested += f", in the weakest of {trainings} trainings" if trainings > 1 else ", one training each"
        body = f"{points(abs(row['accuracy']))} points of accuracy (95 % interval {span}; {tested})"
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
