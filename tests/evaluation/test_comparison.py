"""What several runs show: rows, intervals, verdicts, folds and the report, on runs whose outcome is made up."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from sklearn.metrics import f1_score, precision_score

from alu_defects.data import catalog
from alu_defects.evaluation import statistics
from alu_defects.evaluation.comparison import Comparison
from alu_defects.evaluation.predictions import PROBABILITY_PREFIX
from alu_defects.io import write_json
from alu_defects.reports import comparison_report, comparison_text
from alu_defects.runs.run import Run

CLASSES = ["normal", "pit", "a|b *c* <script>alert(1)</script>"]
OPERATING = {"normal": "normal", "max_escape": 0.01, "confidence_level": 0.95, "reject": 0.1}
number = itertools.count()


def images(count: int, sessions: int = 40) -> pd.DataFrame:
    rows = np.arange(count)
    return pd.DataFrame(
        {
            "path": [f"p {k}.jpg" for k in rows],
            "label": [CLASSES[k % 3] for k in rows],
            "sha256": [f"{k:04d}" for k in rows],
            "session": [f"{CLASSES[k % 3]} {k // 3 % (sessions // 3)}" for k in rows],
            "split": "test",
        }
    )


def fabricate(
    sweep: Path,
    model: str,
    seed: int,
    wrong: Sequence[int],
    *,
    overrides: Sequence[str] = (),
    table: pd.DataFrame | None = None,
    split: dict[str, object] | None = None,
    data: dict[str, object] | None = None,
) -> Run:
    """A finished run that takes the given test images for the next class."""
    table = images(120) if table is None else table
    config = OmegaConf.create(
        {
            "seed": seed,
            "model": {"name": model},
            "split": split or {"name": "session"},
            "data": data or {"source": "folder"},
        }
    )
    run = Run.create(sweep / f"{next(number)}_{model}", config, [f"model={model}", f"seed={seed}", *overrides])
    catalog.save_catalog(table.astype(str), run.catalog_file)
    labels = table["label"].map(CLASSES.index).to_numpy()
    predicted = labels.copy()
    predicted[list(wrong)] = (predicted[list(wrong)] + 1) % 3
    predictions = pd.DataFrame(
        {"path": table["path"], "label": table["label"], "prediction": [CLASSES[k] for k in predicted]}
    )
    for k, name in enumerate(CLASSES):
        predictions[PROBABILITY_PREFIX + name] = np.where(predicted == k, 0.8, 0.1)
    predictions.to_csv(run.folder / "predictions.csv", index=False)
    run.evaluation("val").mkdir(parents=True)
    predictions.to_csv(run.evaluation("val") / "predictions.csv", index=False)
    test = {name: float((labels == predicted).mean()) for name in ("accuracy", "precision", "recall", "f1")}
    per_class = {name: {"precision": 0.5, "recall": 0.5} for name in CLASSES}
    metrics = {"best_epoch": 1, "epochs": 2, "parameters": 5_000_000, "multiply_adds": 2_000_000_000, "seconds": 90.0}
    write_json(run.metrics_file, {**metrics, "note": "", "test": {**test, "per_class": per_class}})
    epochs = {
        "epoch": [0, 1],
        "val/loss": [1.0, 0.5],
        "val/accuracy": [0.5, 0.8],
        "train/images_per_second": [9.0, 11.0],
    }
    pd.DataFrame(epochs).to_csv(run.history_file, index=False)
    run.update(status="finished", data_hash=str(len(table)), leakage={"accuracy": 0.9})
    return run


def fail(folder: Path) -> None:
    config = OmegaConf.create({"model": {"name": "shufflenet"}, "seed": 0})
    Run.failed(folder, config, ["model=shufflenet", "seed=0"], ValueError("no such width"))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A good network, one nearly as good, and a bad one, three seeds each, and a job that failed."""
    for seed in (0, 1, 2):
        fabricate(tmp_path, "inceptionv4", seed, range(seed, 9 + seed))
        fabricate(tmp_path, "inceptionv4_scse", seed, range(seed, 7 + seed))
        fabricate(tmp_path, "xception", seed, range(40 + seed, 110))
    fail(tmp_path / "9_shufflenet")
    return tmp_path


def test_one_row_a_model_with_the_mean_over_seeds(sweep):
    comparison = Comparison.read([sweep])
    table = comparison.table.set_index("group")
    assert list(table.index) == ["inceptionv4_scse", "inceptionv4", "xception"]  # the most accurate first
    assert table.loc["inceptionv4", "accuracy"] == pytest.approx(1 - 9 / 120)
    assert table.loc["inceptionv4", "accuracy_sd"] == pytest.approx(0)
    wrong = [70, 69, 68]
    assert table.loc["xception", "accuracy"] == pytest.approx(1 - np.mean(wrong) / 120)
    assert table.loc["xception", "accuracy_sd"] == pytest.approx(1 / 120)
    labels, predicted = (comparison.groups[2].repeats[0].predictions[name] for name in ("label", "prediction"))
    own = comparison.groups[2].scores.summary
    assert own["f1"][0] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert own["precision"][0] == pytest.approx(precision_score(labels, predicted, average="macro"))
    for name in ("accuracy", "accuracy_session", "f1", "recall"):
        low, high = table.loc["xception", f"{name}_low"], table.loc["xception", f"{name}_high"]
        assert low < table.loc["xception", name.removesuffix("_session")] < high
    assert table.loc["xception", ["repeats", "images", "sessions"]].tolist() == [3, 120, 39]
    assert table.loc["xception", ["parameters", "multiply_adds", "seconds", "images_per_second"]].tolist() == [
        5e6,
        2e9,
        90,
        10,
    ]


def test_which_differences_are_real(sweep):
    table = Comparison.read([sweep]).differences.set_index(["group", "other"])
    assert table["real"].to_dict() == {
        ("inceptionv4_scse", "inceptionv4"): False,
        ("inceptionv4_scse", "xception"): True,
        ("inceptionv4", "xception"): True,
    }
    close = table.loc[("inceptionv4_scse", "inceptionv4")]
    assert close["accuracy"] == pytest.approx(2 / 120)
    assert close["p_of_each"] == pytest.approx([0.5] * 3)  # two images to none: 2 × (1/2)²
    assert close["p_holm"] >= 0.5
    assert (close["only_right"], close["other_only_right"]) == (6, 0)


def test_one_run_is_no_evidence_about_a_model(tmp_path):
    fabricate(tmp_path, "inceptionv4", 0, range(9))
    fabricate(tmp_path, "xception", 0, range(40, 110))
    comparison = Comparison.read([tmp_path])
    (row,) = comparison.differences.to_dict("records")
    assert row["clear"]
    assert not row["real"]
    said = " ".join(comparison_text.findings(comparison))
    assert "This run of inceptionv4 is better than that of xception" in said
    assert "One run says nothing about its model" in said


def test_seeds_that_disagree_show_nothing(tmp_path):
    for seed, (a, b) in enumerate([(5, 60), (60, 5), (5, 60)]):
        fabricate(tmp_path, "inceptionv4", seed, range(a))
        fabricate(tmp_path, "xception", seed, range(b))
    (row,) = Comparison.read([tmp_path]).differences.to_dict("records")
    assert row["p"] == 1
    assert not row["clear"]


@pytest.mark.parametrize(
    ("note", "selected", "partial"),
    [
        ("", False, False),
        ("selected on the evaluation images", True, False),
        ("partial evaluation: 16 of 120 test images", False, True),
        ("selected on the evaluation images; partial evaluation: 16 of 120 test images", True, True),
    ],
)
def test_each_note_of_a_run_is_a_warning(tmp_path, note, selected, partial):
    run = fabricate(tmp_path, "xception", 0, range(9))
    write_json(run.metrics_file, {**run.metrics(), "note": note})
    text = " ".join(comparison_text.warnings(Comparison.read([tmp_path])))
    assert ("chose its best epoch on the test images" in text) is selected
    assert ("Evaluated on a part of the images only: xception." in text) is partial


def test_only_the_same_images_are_compared(tmp_path):
    for seed in (0, 1):
        fabricate(tmp_path, "inceptionv4", seed, range(9), overrides=["split=session"])
        fabricate(tmp_path, "inceptionv4", seed, range(9), overrides=["split=random"], table=images(90))
    comparison = Comparison.read([tmp_path])
    assert set(comparison.table["group"]) == {"inceptionv4 split=session", "inceptionv4 split=random"}
    assert comparison.table.set_index("group")["images"].to_dict() == {
        "inceptionv4 split=session": 120,
        "inceptionv4 split=random": 90,
    }
    assert len(comparison.differences) == 0
    assert "2 different sets of images" in " ".join(comparison_text.warnings(comparison))


def test_runs_started_from_python_are_told_apart_by_their_settings(tmp_path):
    for size in (64, 96):
        for seed in (0, 1):
            run = fabricate(tmp_path, "xception", seed, range(9), data={"source": "folder", "image_size": size})
            run.update(overrides=[])
    table = Comparison.read([tmp_path]).table
    assert set(table["group"]) == {"xception data.image_size=64", "xception data.image_size=96"}
    assert table["repeats"].tolist() == [2, 2]


def test_folds_are_joined(tmp_path):
    table, words = images(120), ["split.k=3"]
    for fold in (0, 1, 2):
        own = table.iloc[fold::3].reset_index(drop=True)
        split = {"name": "kfold", "k": 3, "by": "session", "seed": 0, "fold": fold}
        fabricate(
            tmp_path, "xception", 0, range(fold), overrides=[*words, f"split.fold={fold}"], table=own, split=split
        )
        if fold < 2:  # one is missing
            fabricate(
                tmp_path, "shufflenet", 0, range(fold), overrides=[*words, f"split.fold={fold}"], table=own, split=split
            )
    comparison = Comparison.read([tmp_path])
    (row,) = comparison.table.to_dict("records")
    assert (row["group"], row["folds"], row["images"]) == ("xception", 3, 120)
    assert row["accuracy"] == pytest.approx(1 - 3 / 120)
    assert row["accuracy_fold_sd"] == pytest.approx(np.std([1, 39 / 40, 38 / 40], ddof=1))
    joined = comparison.predictions
    assert sorted(joined["path"]) == sorted(table["path"])
    assert joined["fold"].value_counts().to_dict() == {0: 40, 1: 40, 2: 40}
    assert "shufflenet: some folds or their predictions are missing" in " ".join(comparison_text.warnings(comparison))


def test_what_attention_changes_class_by_class(sweep):
    table = Comparison.read([sweep]).attention.set_index("class")
    assert set(table["group"]) == {"inceptionv4_scse"}
    assert set(table["other"]) == {"inceptionv4"}
    assert table["support"].tolist() == [40, 40, 40]
    assert 0.5 > table["recall"].max() > 0
    assert (table["recall_low"] <= table["recall"]).all()


@pytest.mark.filterwarnings("error")
def test_a_class_of_one_session_shows_no_difference(tmp_path):
    table = images(120)
    table.loc[table["label"] == "pit", "session"] = "pit 0"
    pits = [k for k in range(120) if k % 3 == 1]
    fabricate(tmp_path, "inceptionv4", 0, pits, table=table)
    fabricate(tmp_path, "inceptionv4_scse", 0, range(0, 9, 3), table=table)
    rows = Comparison.read([tmp_path]).attention.set_index("class")
    assert (rows.loc["pit", "sessions"], rows.loc["pit", "recall"]) == (1, 1)
    assert rows.loc["pit", ["recall_low", "recall_high", "f1_low", "p_holm"]].isna().all()
    assert not rows["clear"].any()
    assert (rows.drop(index="pit")["p_holm"] == statistics.holm(rows.drop(index="pit")["p"].tolist())).all()


@pytest.mark.slow
def test_classes_of_few_sessions_are_not_counted_by_holm(tmp_path):
    table = images(120)
    for label, sessions in zip(CLASSES, (6, 5, 13), strict=True):
        own = table["label"] == label
        table.loc[own, "session"] = [f"{label} {k % sessions}" for k in range(own.sum())]
    fabricate(tmp_path, "inceptionv4", 0, range(40), table=table)
    fabricate(tmp_path, "inceptionv4_scse", 0, [0, 1, 2], table=table)
    comparison = Comparison.read([tmp_path])
    rows = comparison.attention.set_index("class")
    assert rows["sessions"].tolist() == [6, 5, 13]
    assert math.isnan(rows.loc["pit", "p_holm"])
    others = rows.drop(index="pit")
    assert others["p_holm"].tolist() == statistics.holm(others["p"].tolist())
    comparison_report.write_comparison_report(comparison, tmp_path / "out", OPERATING)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Holm's correction is for 2 of 3 classes. 1 of 3 have fewer than 6 test sessions" in text


def test_the_report_has_both_bounds_of_the_escape_rate_and_what_cannot_be_promised(tmp_path):
    fabricate(tmp_path, "xception", 0, [])  # 2 of 80 may pass, and none does
    independent = statistics.effective_sample_size(images(120).query("label != 'normal'")["session"].tolist())
    bounds = statistics.upper_bound(2, 80), statistics.upper_bound(2 * independent / 80, independent)
    comparison, loose = Comparison.read([tmp_path]), OPERATING | {"max_escape": 0.03}
    (row,) = comparison.operating_points(loose).to_dict("records")
    assert (row["bound"], row["bound_together"]) == pytest.approx(bounds)
    assert (row["promised"], row["runs"]) == (0, 1)
    comparison_report.write_comparison_report(comparison, tmp_path / "out", loose)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| escape ≤ 7.7 %, too few for 3.0 % | ≤ 15.1 % |" in text
    assert "with 95 % confidence, at most 3.0 % of the defective pieces pass" in text
    comparison_report.write_comparison_report(comparison, tmp_path / "out", OPERATING | {"max_escape": 0.1})
    assert "too few for" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_intervals_by_session_are_those_of_all_repeats(tmp_path):
    for seed, wrong in enumerate((range(9), range(30, 90))):
        fabricate(tmp_path, "xception", seed, wrong)
    comparison = Comparison.read([tmp_path])
    (row,), (group,) = comparison.table.to_dict("records"), comparison.groups
    sessions = group.images["session"].tolist()
    for metric, name in {"accuracy": "accuracy_session", "recall": "recall", "f1": "f1"}.items():
        drawn = group.resampled.summary[metric].mean(axis=0)
        labels = group.images["label"].tolist()
        expected = statistics.summary_interval(metric, row[metric], drawn, labels=labels, groups=sessions)
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(expected)


def test_few_sessions_are_named_and_where_nothing_varies_there_is_no_interval(tmp_path):
    table = images(120, sessions=3)
    for model in ("xception", "shufflenet"):
        fabricate(tmp_path, model, 0, [], table=table)
    comparison = Comparison.read([tmp_path])
    assert "Fewer than 10 test sessions: too few to say much about other sessions." in comparison_text.warnings(
        comparison
    )
    assert "(95 % interval: none, as nothing varies; " in " ".join(comparison_text.findings(comparison))
    assert comparison_report.differences(comparison)["accuracy (points)"].tolist() == ["0.0 (none, as nothing varies)"]


def test_the_papers_numbers_stand_beside_its_experiment_alone(tmp_path):
    data = {"source": "tianchi", "round": 1, "include_other": False, "image_size": 400}
    fabricate(tmp_path / "a", "inceptionv4_scse", 0, range(9), data=data, split={"name": "paper"})
    fabricate(
        tmp_path / "b", "inceptionv4_scse", 0, range(9), data={**data, "image_size": 128}, split={"name": "paper"}
    )
    assert Comparison.read([tmp_path / "a"]).table["paper_accuracy"].tolist() == [0.98]
    same = {**data, "image_size": [400, 400]}
    fabricate(tmp_path / "c", "inceptionv4_scse", 0, range(9), data=same, split={"name": "paper"})
    assert Comparison.read([tmp_path / "c"]).table["paper_accuracy"].tolist() == [0.98]
    assert "98.00 / 97.80 / 96.00" in comparison_report.table2(Comparison.read([tmp_path / "a"])).to_string()
    assert "paper_accuracy" not in Comparison.read([tmp_path / "b"]).table


def test_the_report_says_what_failed_and_holds_its_images(sweep, tmp_path):
    page = comparison_report.write_comparison_report(Comparison.read([sweep]), tmp_path / "out", OPERATING)
    text = page.read_text(encoding="utf-8")
    assert "9_shufflenet failed" in text
    assert "ValueError: no such width" in text
    assert "The time-only baseline" in text
    assert "90.0 %" in text
    assert "<script>" not in text
    assert "src=&quot;http" not in text
    assert 'src="http' not in text
    assert text.count('src="data:image/png;base64,') == 5
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "xception" in markdown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {
        "table2.csv",
        "differences.csv",
        "classes.csv",
        "runs.csv",
        "predictions.csv",
        "loss.svg",
        "operating.csv",
    }


def test_nothing_finished_is_a_report_too(tmp_path):
    fail(tmp_path / "0_shufflenet")
    comparison = Comparison.read([tmp_path])
    comparison_report.print_comparison(comparison)
    text = comparison_report.write_comparison_report(comparison, tmp_path / "out", OPERATING).read_text()
    assert "0 of 1 runs finished" in text
    assert "no such width" in text


def test_a_run_that_is_gone_is_named_and_the_others_stay(sweep):
    pointer = sweep / "8_gone"
    pointer.mkdir()
    words = ["model=xception", "seed=3"]
    write_json(pointer / "run.json", {"status": "reused", "run": "../gone", "overrides": words, "model": "xception"})
    comparison = Comparison.read([sweep])
    assert comparison.table.set_index("group").loc["xception", "repeats"] == 3
    row = comparison.runs.set_index("job").loc["8_gone"]
    assert row["status"] == "gone"
    assert "run the sweep again" in row["error"]
    assert row["group"] == "xception"


def test_a_job_that_never_became_a_run_leaves_the_names_of_the_others(sweep):
    config = OmegaConf.create({"model": {"name": "xception"}, "seed": "abc"})
    Run.failed(sweep / "8_xception", config, ["model=xception", "seed=abc", "~callbacks.last"], ValueError("abc"))
    assert set(Comparison.read([sweep]).table["group"]) == {"xception", "inceptionv4", "inceptionv4_scse"}


def test_a_network_that_diverged_is_compared_too(sweep):
    for folder in sweep.glob("*_xception"):
        for file in (folder / "predictions.csv", folder / "evaluation" / "val" / "predictions.csv"):
            table = pd.read_csv(file)
            table[[name for name in table if name.startswith(PROBABILITY_PREFIX)]] = np.nan
            table.to_csv(file, index=False)
    comparison = Comparison.read([sweep])
    assert len(comparison.table) == 3
    assert set(comparison.operating_points(OPERATING)["group"]) == {"inceptionv4", "inceptionv4_scse"}


def test_a_run_without_predictions_on_val_is_incomplete(tmp_path):
    fabricate(tmp_path, "xception", 0, range(9))
    run = fabricate(tmp_path, "shufflenet", 0, range(9))
    (run.evaluation("val") / "predictions.csv").unlink()
    comparison = Comparison.read([tmp_path])
    assert comparison.table["group"].tolist() == ["xception"]
    assert "shufflenet: some folds or their predictions are missing" in " ".join(comparison_text.warnings(comparison))


def test_the_confidence_level_is_that_of_the_options(tmp_path):
    fabricate(tmp_path, "xception", 0, range(9))
    comparison = Comparison.read([tmp_path])
    bounds = [
        comparison.operating_points(OPERATING | {"confidence_level": level})["bound"].item() for level in (0.8, 0.95)
    ]
    assert bounds[0] < bounds[1]
    comparison_report.write_comparison_report(comparison, tmp_path / "out", OPERATING | {"confidence_level": 0.8})
    assert "with 80 % confidence" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_other_labels_are_not_the_same_images(tmp_path):
    corrected = images(120)
    corrected.loc[0, "label"] = CLASSES[1]
    for seed in (0, 1):
        fabricate(tmp_path, "inceptionv4", seed, range(9))
        fabricate(tmp_path, "xception", seed, range(9), table=corrected)
    assert len(Comparison.read([tmp_path]).pairs) == 0


def test_equal_models_are_seldom_called_different(tmp_path):
    """Two seeds each, whose accuracies vary much: each McNemar test is significant, and yet nothing is shown."""
    fabricate(tmp_path, "inceptionv4", 0, range(5))
    fabricate(tmp_path, "inceptionv4", 1, range(40))
    fabricate(tmp_path, "xception", 0, range(35))
    fabricate(tmp_path, "xception", 1, range(75))
    (row,) = Comparison.read([tmp_path]).differences.to_dict("records")
    assert max(row["p_of_each"]) < 0.001
    assert row["accuracy_low"] < 0 < row["accuracy_high"]
    assert not row["clear"]
