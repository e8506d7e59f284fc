"""Everything about one model on one split: report.html, report.md, tables and figures, and the numbers as a dict."""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from alu_defects.data.datamodule import DefectData
from alu_defects.data.splits import SELECTED_ON_TEST
from alu_defects.evaluation import calibration
from alu_defects.evaluation.assessment import Assessment, sentences
from alu_defects.evaluation.predictions import PREDICTIONS_FILE, Evaluation
from alu_defects.io import write_json
from alu_defects.reports import evaluation_plots, html, plots
from alu_defects.reports.plots import readable
from alu_defects.reports.terminal import percent, span

MOST_CONFUSIONS, THUMBNAILS = 6, 6


def write_evaluation_report(judgement: Assessment, data: DefectData, folder: Path, title: str) -> Path:
    """Write the report; returns report.html."""
    options: dict[str, Any] = {"quoting": csv.QUOTE_NONNUMERIC, "errors": "surrogateescape"}
    judgement.classes.to_csv(folder / "classes.csv", index=False, **options)
    judgement.reject().to_csv(folder / "reject.csv", index=False, **options)
    confusion = judgement.judged.evaluation.confusion
    shares = confusion.div(confusion.sum(axis=1).clip(1), axis=0)
    shares.to_csv(folder / "confusion_normalised.csv", **options)
    return html.write_report(folder, title, list(_parts(judgement, data, folder)))


def _parts(judgement: Assessment, data: DefectData, folder: Path) -> Iterator[str]:
    it = judgement.judged
    result, names = it.evaluation, it.classes
    for note in dict.fromkeys([*result.notes, *judgement.val.evaluation.notes]):
        yield f"> The epoch was {note}: all scores are too good." if note == SELECTED_ON_TEST else f"> A {note}."
    right, total = int(it.right.sum()), len(it.right)
    kept = len(set(it.sessions))
    yield f"{total} {result.split} images" + (f" in {kept} sessions." if kept < total else ", each by itself.")
    yield html.markdown_table(_summary(judgement))
    yield "## At the line"
    yield "\n".join(f"* {html.escape_markdown(text)}" for text in sentences(judgement))
    if judgement.threshold is not None:
        here = judgement.outcome(it)
        assert here is not None
        figure = evaluation_plots.plot_operating_curve(
            it.scores, it.defective, it.sessions, threshold=judgement.threshold, result=here, split=result.split
        )
        yield html.save_figure(figure, folder, "operating", "Escape against overkill")
        yield html.markdown_table(_operating(judgement))
    yield "## Whom to ask"
    figure = evaluation_plots.plot_risk_coverage(it.confidence, it.right, it.sessions, result.split)
    yield html.save_figure(figure, folder, "reject", "Accuracy as the least confident images go to a person")
    yield html.markdown_table(_reject(judgement))
    yield "## Classes"
    yield "![Confusion matrix](confusion.png)"
    figure = evaluation_plots.plot_confusion_shares(result.confusion.to_numpy(), names)
    yield html.save_figure(figure, folder, "confusion_normalised", "Confusion matrix in per cent")
    yield html.markdown_table(_classes(judgement))
    truth = it.labels[:, None] == np.arange(len(names))
    for name, draw in (
        ("precision_recall", evaluation_plots.plot_precision_recall),
        ("roc", evaluation_plots.plot_roc),
    ):
        yield html.save_figure(draw(truth, it.probabilities, names), folder, name, name.replace("_", " "))
    yield f"## Mistakes: {total - right} of {total}"
    yield html.save_figure(_confusions(result, data), folder, "confusions", "The most frequent confusions", svg=False)
    Image.fromarray(evaluation_plots.draw_mistakes(result, data)).save(folder / "mistakes.png")
    yield "![The most confident mistakes](mistakes.png)"
    yield "## How sure it is"
    errors = (
        calibration.expected_calibration_error(it.raw, it.labels),
        calibration.expected_calibration_error(it.probabilities, it.labels),
    )
    before = it.raw[np.arange(total), it.predicted]
    figure = evaluation_plots.plot_reliability(
        before, it.confidence, it.right, errors, judgement.calibrated.temperature
    )
    yield html.save_figure(figure, folder, "calibration", "Confidence against the share that is right")


def _summary(judgement: Assessment) -> pd.DataFrame:
    metrics, ends = judgement.judged.evaluation.metrics, judgement.intervals
    titles = {"accuracy": "accuracy", "precision": "macro precision", "recall": "macro recall", "f1": "macro F1"}
    rows = [
        {"metric": title, "%": percent(metrics[name], ""), "95 %, by session": span(ends[name], "")}
        for name, title in titles.items()
    ]
    rows[0]["95 %, images independent (Wilson)"] = span(ends["accuracy_wilson"], "")
    return pd.DataFrame(rows).fillna("")


def _operating(judgement: Assessment) -> pd.DataFrame:
    rows = []
    for judged in {id(j): j for j in (judgement.val, judgement.judged)}.values():
        found = judgement.outcome(judged)
        assert found is not None
        rows.append(
            {
                "images": judged.evaluation.split,
                "defective": found.defective,
                "pass": found.escapes,
                "escape": f"{percent(found.escape)} ({span(found.escape_interval)})",
                "good": found.normal,
                "scrapped": found.overkills,
                "overkill": f"{percent(found.overkill)} ({span(found.overkill_interval)})",
            }
        )
    return pd.DataFrame(rows)


def _reject(judgement: Assessment) -> pd.DataFrame:
    rows = judgement.reject().to_dict("records")
    return pd.DataFrame(
        {
            "sent to a person": row["rule"],
            "confidence below": "–" if math.isinf(row["confidence"]) else f"{row['confidence']:.3f}",
            "sent here": percent(row["rejected"]),
            "decided": row["decided"],
            "of them right": f"{percent(row['accuracy'])} ({span((row['low'], row['high']))})",
        }
        for row in rows
    )


def _classes(judgement: Assessment) -> pd.DataFrame:
    confusion = judgement.judged.evaluation.confusion
    rows = []
    for row in judgement.classes.to_dict("records"):
        wrong = confusion.loc[row["class"]].drop(row["class"])
        taken = f"{readable(str(wrong.idxmax()))} ({wrong.max()})" if len(wrong) and wrong.max() else ""
        cells = {
            title: f"{percent(row[name], '')} ({span((row[f'{name}_low'], row[f'{name}_high']), '')})"
            for name, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
        }
        rest = {"AP": f"{row['average_precision']:.2f}", "AUC": f"{row['roc_auc']:.3f}", "mostly taken for": taken}
        rows.append({"class": readable(row["class"]), "images": row["support"], **cells, **rest})
    return pd.DataFrame(rows)


def _confusions(result: Evaluation, data: DefectData) -> Any:
    pairs = []
    found = result.mistakes.groupby(["label", "prediction"], sort=False)
    for names, own in sorted(found, key=lambda pair: -len(pair[1]))[:MOST_CONFUSIONS]:
        label, prediction = map(str, names)
        total = result.confusion.loc[label].sum()
        title = f"{readable(label)} → {readable(prediction)}: {len(own)} of {total}"
        pairs.append((title, data.images(own["row"].head(THUMBNAILS).to_numpy(dtype=np.int64))))
    return evaluation_plots.plot_confusions(pairs, THUMBNAILS)


def write_evaluation(evaluation: Evaluation, folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write predictions.csv, confusion.csv, confusion.png and metrics.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # as in the catalog: names may hold line ends, or be no UTF-8
    options: dict[str, Any] = {"quoting": csv.QUOTE_NONNUMERIC, "errors": "surrogateescape"}
    evaluation.predictions.to_csv(folder / PREDICTIONS_FILE, index=False, **options)
    evaluation.confusion.to_csv(folder / "confusion.csv", **options)
    names = list(evaluation.confusion.columns)
    figure = plots.plot_confusion(evaluation.confusion.to_numpy(), names, evaluation.note)
    figure.savefig(folder / "confusion.png", dpi=150)
    write_json(folder / "metrics.json", metrics)
