"""How good one model is on one split: report.html, report.md, tables and figures."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from alu_defects.data.datamodule import DefectData
from alu_defects.data.splits import NEW, SELECTED_ON_TEST
from alu_defects.evaluation.assessment import Assessment
from alu_defects.evaluation.operating import Outcome, Threshold
from alu_defects.evaluation.predictions import PARTIAL_NOTE, Evaluation
from alu_defects.io import write_json
from alu_defects.reports import evaluation_plots, html, plots
from alu_defects.reports.plots import readable
from alu_defects.reports.terminal import METRIC_TITLES, percent, spaced, span, with_interval
from alu_defects.runs.jobs import PREDICTIONS_FILE

MOST_CONFUSIONS, THUMBNAILS = 6, 6


def write_evaluation_report(assessment: Assessment, data: DefectData, folder: Path, title: str, weights: str) -> Path:
    """Write the report, also with what `weights` the network started from; returns report.html."""
    confusion = assessment.evaluated.evaluation.confusion
    shares = confusion.div(confusion.sum(axis=1).clip(1), axis=0)
    html.write_tables(folder, {"classes": assessment.classes, "reject": assessment.selective})
    html.write_tables(folder, {"confusion_normalised": shares}, index=True)
    return html.write_report(
        folder, title, [f"Starting weights: {html.escape_markdown(weights)}.", *_parts(assessment, data, folder)]
    )


def _parts(assessment: Assessment, data: DefectData, folder: Path) -> Iterator[str]:
    images = assessment.evaluated
    result, names, point = images.evaluation, images.classes, assessment.point
    chooser = assessment.chooser.evaluation.split
    for note in dict.fromkeys([*result.notes, *assessment.chooser.evaluation.notes]):
        text = {SELECTED_ON_TEST: f"The epoch was {note}: all scores are too good"}.get(note, note)
        text = f"A {note}" if note.startswith(PARTIAL_NOTE) else text
        yield f"> {html.escape_markdown(text[0].upper() + text[1:])}."
    right, total = int(images.right.sum()), len(images.right)
    sessions = len(set(images.sessions))
    yield f"{total} {result.split} images" + (f" in {sessions} sessions." if sessions < total else ", each by itself.")
    yield html.markdown_table(_summary(assessment))
    yield "## Operating point"
    yield "\n".join(f"* {html.escape_markdown(text)}" for text in operating_sentences(assessment))
    if assessment.outcomes and point.threshold:
        outcome = assessment.outcomes[result.split]
        scored = images.scores, images.defective, images.sessions
        figure = evaluation_plots.plot_operating_curve(
            *scored, threshold=point.threshold, result=outcome, split=result.split, chooser=chooser
        )
        yield html.save_figure(figure, folder, "operating", "Escape against overkill")
        yield html.markdown_table(_operating(assessment.outcomes))
    yield "## Selective prediction"
    figure = evaluation_plots.plot_risk_coverage(images.confidence, images.right, images.sessions, result.split)
    yield html.save_figure(figure, folder, "reject", "Accuracy as the least confident images go to a person")
    yield html.markdown_table(_selective(assessment.selective))
    yield "## Classes"
    yield "![Confusion matrix](confusion.png)"
    figure = plots.plot_confusion(result.confusion.to_numpy(), names, in_per_cent=True)
    yield html.save_figure(figure, folder, "confusion_normalised", "Confusion matrix in per cent")
    yield html.markdown_table(_classes(assessment.classes, result.confusion))
    truth = images.labels[:, None] == np.arange(len(names))
    figure = evaluation_plots.plot_precision_recall(truth, images.probabilities, names)
    yield html.save_figure(figure, folder, "precision_recall", "precision recall")
    figure = evaluation_plots.plot_roc(truth, images.probabilities, names)
    yield html.save_figure(figure, folder, "roc", "roc")
    yield f"## Mistakes: {total - right} of {total}"
    yield html.save_figure(_confusions(result, data), folder, "confusions", "The most frequent confusions", svg=False)
    Image.fromarray(evaluation_plots.draw_mistakes(result, data)).save(folder / "mistakes.png")
    yield "![The most confident mistakes](mistakes.png)"
    yield "## Calibration"
    before = images.raw[np.arange(total), images.predicted]
    fitted = f"temperature {point.calibration.temperature:.2f}, fitted on {chooser}"
    figure = evaluation_plots.plot_reliability(
        before, images.confidence, images.right, assessment.calibration_errors, fitted
    )
    yield html.save_figure(figure, folder, "calibration", "Confidence against the share that is right")


def operating_sentences(assessment: Assessment) -> list[str]:
    """What the operating point promises, and whether the evaluated images keep it."""
    point, split = assessment.point, assessment.evaluated.evaluation.split
    chooser = assessment.chooser.evaluation.split
    if point.normal is None:
        return ["No class is called normal, so there is no escape and no overkill; operating.normal=… names it."]
    if not assessment.outcomes or point.threshold is None:
        where = f"{chooser} and {split} do not both have" if split != chooser else f"{split} does not have both"
        return [f"{where} good and defective images: no threshold can be chosen and tried."]
    threshold, there, outcome = point.threshold, assessment.outcomes[chooser], assessment.outcomes[split]
    level = f"{threshold.confidence_level:.0%}".replace("%", " %")
    score = f"A piece is defective if its score (1 − probability of {point.normal}) is {threshold.score:.4g} or more."
    if threshold.promised:
        promise = (
            f"{score} On {chooser} {threshold.escapes} of {threshold.defective} defective images pass: with {level} "
            f"confidence at most {percent(threshold.bound)} do; {percent(threshold.max_escape)} was asked for."
        )
    else:
        promise = (
            f"{score} The {threshold.defective} defective images of {chooser} are too few to promise an escape rate of "
            f"{percent(threshold.max_escape)}: {threshold.escapes} pass, which promises with {level} confidence only "
            f"that at most {percent(threshold.bound)} do. "
            f"{threshold.needed} defective images without an escape would be needed."
        )
    texts = [
        promise,
        f"On {chooser}, {there.overkills} of {there.normal} good images are scrapped ({percent(there.overkill)}).",
    ]
    if split != chooser:
        same = assessment.evaluated.evaluation.rows == assessment.chooser.evaluation.rows
        proves_nothing = "these images chose the threshold, so this proves nothing"
        verdict = proves_nothing if same else _verdict(threshold, outcome, chooser)
        texts.append(
            f"On {split}, {outcome.escapes} of {outcome.defective} defective images pass ({percent(outcome.escape)}; "
            f"{span(outcome.escape_interval)}): {verdict}. {outcome.overkills} of {outcome.normal} good images are "
            f"scrapped ({percent(outcome.overkill)}; {span(outcome.overkill_interval)})."
        )
    chose = "the epoch and the temperature" if chooser == "val" else "the temperature and the threshold"
    texts.append(
        f"The bound of {chooser}, the intervals and p assume that the images are independent, and that each defect is "
        f"as frequent in production as in these images. {chooser} has also chosen {chose}, so it is a little too good."
    )
    if chooser == split == NEW:
        texts.append(
            "The new images chose the threshold, the temperature and the confidences of selective prediction, and are "
            "also those that these are judged on: the bound of the escape rate holds, but overkill, selective "
            "prediction and calibration look better than they will be on other images."
        )
    if threshold.bound_together > threshold.bound:
        number = f"{threshold.independent:.{0 if threshold.independent >= 10 else 1}f}"
        texts.append(
            f"In the worst case the defective images of one session pass or are caught together. Those of {chooser} "
            f"then say as much as {number} independent images, and with {level} confidence at most "
            f"{percent(threshold.bound_together)} pass."
        )
    return texts


def _verdict(threshold: Threshold, outcome: Outcome, chooser: str) -> str:
    """Whether images keep the promise, or the bound of those that chose where that is not what was asked for."""
    source = "promised" if threshold.promised else f"{chooser} says"
    by_chance = f"p = {outcome.breaks(threshold.bound):.2g}"
    if outcome.escape <= threshold.bound:
        verdict = "the promise is kept" if threshold.promised else f"within the {percent(threshold.bound)} of {chooser}"
    elif outcome.escape <= threshold.bound_together:
        verdict = f"more than {source} for independent images ({by_chance}), not if those of one session pass together"
    else:
        verdict = f"more than {source}; by chance alone this happens with {by_chance}"
    if threshold.promised:
        return verdict
    more = ", and more than that pass here" if outcome.escape > threshold.max_escape else ""
    return f"{verdict}; the {percent(threshold.max_escape)} that was asked for was not promised{more}"


def _summary(assessment: Assessment) -> pd.DataFrame:
    metrics, ends = assessment.evaluated.evaluation.metrics, assessment.intervals
    rows = [
        {"metric": title, "%": percent(metrics[name], ""), "95 %, by session": span(ends[name], "")}
        for name, title in METRIC_TITLES.items()
    ]
    rows[0]["95 %, images independent (Wilson)"] = span(ends["accuracy_wilson"], "")
    return pd.DataFrame(rows).fillna("")


def _operating(outcomes: dict[str, Outcome]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "images": split,
            "defective": outcome.defective,
            "pass": outcome.escapes,
            "escape": f"{percent(outcome.escape)} ({span(outcome.escape_interval)})",
            "good": outcome.normal,
            "scrapped": outcome.overkills,
            "overkill": f"{percent(outcome.overkill)} ({span(outcome.overkill_interval)})",
        }
        for split, outcome in outcomes.items()
    )


def _selective(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sent to a person": row["rule"],
            "confidence below": "–" if math.isinf(row["confidence"]) else f"{row['confidence']:.3f}",
            "sent here": percent(row["rejected"]),
            "decided": row["decided"],
            "of them right": with_interval(row["accuracy"], (row["low"], row["high"])),
        }
        for row in table.to_dict("records")
    )


def _classes(table: pd.DataFrame, confusion: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in table.to_dict("records"):
        wrong = confusion.loc[row["class"]].drop(row["class"])
        mostly = f"{spaced(str(wrong.idxmax()))} ({wrong.max()})" if len(wrong) and wrong.max() else ""
        cells = {
            title: with_interval(row[name], (row[f"{name}_low"], row[f"{name}_high"]), "")
            for name, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
        }
        areas = {"AP": f"{row['average_precision']:.2f}", "AUC": f"{row['roc_auc']:.3f}"}
        rest = {title: "–" if number == "nan" else number for title, number in areas.items()}
        rest["mostly taken for"] = mostly
        rows.append({"class": spaced(row["class"]), "images": row["support"], **cells, **rest})
    return pd.DataFrame(rows)


def _confusions(result: Evaluation, data: DefectData) -> Any:
    pairs = []
    found = result.mistakes.groupby(["label", "prediction"], sort=False)
    for names, own in sorted(found, key=lambda pair: -len(pair[1]))[:MOST_CONFUSIONS]:
        label, prediction = map(str, names)
        total = result.confusion.loc[label].sum()
        title = f"{readable(label)} → {readable(prediction)}: {len(own)} of {total}"
        pairs.append((title, data.read_images(own["row"].head(THUMBNAILS).to_numpy(dtype=np.int64))))
    return evaluation_plots.plot_confusions(pairs, THUMBNAILS)


def write_evaluation(evaluation: Evaluation, folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write predictions.csv, confusion.csv, confusion.png and metrics.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    html.write_tables(folder, {Path(PREDICTIONS_FILE).stem: evaluation.predictions})
    html.write_tables(folder, {"confusion": evaluation.confusion}, index=True)
    confusion = evaluation.confusion
    figure = plots.plot_confusion(confusion.to_numpy(), list(confusion.columns), evaluation.note)
    figure.savefig(folder / "confusion.png", dpi=150)
    write_json(folder / "metrics.json", metrics)
