import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

from alu_defects.config import compose
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError
from alu_defects.evaluation import predictions
from alu_defects.reports import evaluation_report, terminal
from alu_defects.train import train
from alu_defects.training.module import Classifier

TRAINER = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def data(photographs: Path) -> DefectData:
    split = {"name": "random", "val_fraction": 0.25, "test_fraction": 0.5, "seed": 0}
    found = DefectData(source="folder", root=str(photographs), image_size=32, batch_size=5, split=split, progress=False)
    found.prepare_data()
    return found


@pytest.fixture
def classifier(data: DefectData) -> Classifier:
    torch.manual_seed(0)
    table = data.catalog
    assert set(table["split"]) == {"train", "val", "test"}
    return Classifier(
        model={"name": "shufflenet", "width": 0.5},
        classes=data.classes,
        class_counts=data.class_counts(),
        image_size=32,
        loss={"_target_": "alu_defects.training.losses.CrossEntropy"},
        optimizer={},
        scheduler={},
    )


def compare_with_scikit_learn(folder: Path, split: str) -> None:
    """Every number in metrics.json against the one that scikit-learn gets from predictions.csv."""
    table = pd.read_csv(folder / "predictions.csv")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))[split]
    names = list(metrics["per_class"])
    probabilities = table[[f"probability_{name}" for name in names]]
    macro = precision_recall_fscore_support(table["label"], table["prediction"], average="macro", zero_division=0)
    each = precision_recall_fscore_support(
        table["label"], table["prediction"], labels=names, average=None, zero_division=0
    )
    expected = {
        "accuracy": accuracy_score(table["label"], table["prediction"]),
        "precision": macro[0],
        "recall": macro[1],
        "f1": macro[2],
        "loss": log_loss(table["label"], probabilities, labels=names),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
    for k, name in enumerate(names):
        assert metrics["per_class"][name]["precision"] == pytest.approx(each[0][k], abs=1e-6)
        assert metrics["per_class"][name]["recall"] == pytest.approx(each[1][k], abs=1e-6)
    counts = pd.read_csv(folder / "confusion.csv", index_col="label")
    assert (counts.to_numpy() == confusion_matrix(table["label"], table["prediction"], labels=names)).all()


@pytest.mark.parametrize("split", ["val", "test"])
def test_metrics_equal_scikit_learn(data, classifier, tmp_path, split):
    result = predictions.evaluate(classifier, data, split, TRAINER)
    assert len(result.predictions) == (data.catalog["split"] == split).sum()
    evaluation_report.write_evaluation(result, tmp_path, {split: result.metrics})
    compare_with_scikit_learn(tmp_path, split)


def test_metrics_equal_scikit_learn_for_a_class_that_is_never_predicted(data, classifier, tmp_path):
    with torch.no_grad():
        classifier.backbone.get_classifier().bias[1] = -20.0
    result = predictions.evaluate(classifier, data, "test", TRAINER)
    assert data.classes[1] not in set(result.predictions["prediction"])
    assert result.metrics["per_class"][data.classes[1]] == {"precision": 0.0, "recall": 0.0}
    evaluation_report.write_evaluation(result, tmp_path, {"test": result.metrics})
    compare_with_scikit_learn(tmp_path, "test")


@pytest.mark.parametrize("split", ["val", "test"])
def test_partial_evaluation_has_a_note_and_catalog_order(data, classifier, split):
    result = predictions.evaluate(classifier, data, split, {**TRAINER, f"limit_{split}_batches": 1})
    total = len(data.find_rows(split))
    assert result.note == f"partial evaluation: 5 of {total} {split} images"
    assert result.rows == sorted(result.rows)
    assert len(set(result.predictions["label"])) > 1
    assert result.predictions["path"].tolist() == data.catalog["path"].iloc[result.rows].tolist()
    whole = predictions.evaluate(classifier, data, split, TRAINER)
    assert whole.note == ""
    assert whole.rows == list(data.find_rows(split))
    columns = [name for name in whole.predictions if name.startswith(predictions.PROBABILITY_PREFIX)]
    alike = whole.predictions.set_index("path").loc[result.predictions["path"], columns].to_numpy()
    assert result.predictions[columns].to_numpy() == pytest.approx(alike, abs=1e-6)


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_without_batches_is_an_error(data, classifier, split):
    with pytest.raises(UserError, match=rf"trainer\.limit_{split}_batches=0 leaves no {split} images"):
        predictions.evaluate(classifier, data, split, {**TRAINER, f"limit_{split}_batches": 0})


def test_printed_folder_is_resolved(data, classifier, tmp_path, capsys):
    result = predictions.evaluate(classifier, data, "test", TRAINER)
    (tmp_path / "there").mkdir()
    terminal.print_run(tmp_path / "there" / ".." / "run", {"test": result.metrics, "note": ""}, result)
    assert capsys.readouterr().out.splitlines()[-1] == f"folder: {tmp_path.resolve() / 'run'}"


def test_notes_of_several_evaluations_are_joined(photographs, classifier):
    split = {"name": "paper", "test_fraction": 0.5, "seed": 0}
    data = DefectData(source="folder", root=str(photographs), image_size=32, batch_size=5, split=split, progress=False)
    limited = {**TRAINER, "limit_val_batches": 1, "limit_test_batches": 2}
    results = [predictions.evaluate(classifier, data, split, limited) for split in ("val", "test")]
    assert predictions.join_notes(results) == (
        "selected on the evaluation images; partial evaluation: 5 of 18 val images; "
        "partial evaluation: 10 of 18 test images"
    )


def test_run_with_partial_validation_has_a_note(small, tmp_path, capsys):
    words = [*small, "trainer.max_epochs=1", "trainer.limit_val_batches=1", "data.batch_size=2"]
    train(compose("train", [*words, f"run_dir={tmp_path}"]))
    for folder in (tmp_path, tmp_path / "evaluation" / "val"):
        note = json.loads((folder / "metrics.json").read_text())["note"]
        assert note == "partial evaluation: 2 of 6 val images"
    assert note in capsys.readouterr().out


def test_metrics_of_a_finished_run_equal_scikit_learn(finished_run):
    compare_with_scikit_learn(finished_run, "test")


def test_mistakes_are_sorted_by_confidence(data, classifier):
    result = predictions.evaluate(classifier, data, "test", TRAINER)
    wrong = result.mistakes
    assert len(wrong) == (result.predictions["label"] != result.predictions["prediction"]).sum() > 0
    assert wrong["confidence"].is_monotonic_decreasing
    for row in wrong.to_dict("records"):
        assert row["confidence"] == row[f"probability_{row['prediction']}"]
        assert data.catalog.loc[row["row"], "path"] == row["path"]


@pytest.mark.parametrize("weights", ["balanced", [1.0, 0.2, 5.0]])
def test_weighted_loss_does_not_depend_on_the_batch_size(data, photographs, weights):
    torch.manual_seed(0)
    classifier = Classifier(
        model={"name": "shufflenet", "width": 0.5},
        classes=data.classes,
        class_counts=[4, 30, 6],
        image_size=32,
        loss={"_target_": "alu_defects.training.losses.CrossEntropy", "class_weights": weights},
        optimizer={},
        scheduler={},
    )
    found = []
    for batch_size in (1, 5, 16, 100):
        data.batch_size = batch_size
        found.append(predictions.evaluate(classifier, data, "test", TRAINER).metrics["loss"])
    data.batch_size = 5
    assert found == pytest.approx([found[0]] * 4, rel=1e-5)


def test_predict_step_removes_fillers(data, classifier):
    batch = {
        "image": torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8),
        "label": torch.zeros(5, dtype=torch.int64),
        "index": torch.tensor([7, 3, 5, -1, -1]),
    }
    classifier.eval()
    with torch.no_grad():
        index, logits = classifier.predict_step({**batch, "filler": 2}, 0)
        assert index.tolist() == [7, 3, 5]
        torch.testing.assert_close(logits, classifier(batch["image"])[:3])
        index, logits = classifier.predict_step({**batch, "filler": 5}, 0)
    assert (len(index), logits.shape) == (0, (0, len(data.classes)))
