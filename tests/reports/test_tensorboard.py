from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from sklearn.metrics import precision_score, recall_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch.utils.tensorboard import SummaryWriter

from alu_defects.config import compose
from alu_defects.data.datamodule import DefectData
from alu_defects.evaluation.predictions import Evaluation
from alu_defects.reports import evaluation_plots, tensorboard
from alu_defects.runs.run import Run
from alu_defects.train import train
from alu_defects.training import checkpoint


@pytest.fixture(scope="module")
def data(photographs):
    split = {"name": "random", "val_fraction": 0.25, "test_fraction": 0.5, "seed": 0}
    data = DefectData(source="folder", root=str(photographs), image_size=32, batch_size=5, split=split, progress=False)
    data.prepare_data()
    return data


def result(data, predictions, names=("across", "along", "plain")):
    """An evaluation of the first images; predictions: (label, prediction, probabilities of the classes)."""
    labels, predicted, probabilities = zip(*predictions, strict=True)
    table = pd.DataFrame({"path": data.catalog["path"].to_list()[: len(labels)], "label": labels})
    table = table.assign(prediction=predicted)
    table[[f"probability_{name}" for name in names]] = np.array(probabilities)
    confusion = pd.crosstab(table["label"], table["prediction"]).reindex(index=names, columns=names, fill_value=0)
    return Evaluation("test", {}, table, confusion, list(range(len(labels))))


def logged(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_has_scalars_images_and_curves_of_a_run(finished_run):
    events = logged(finished_run / "tensorboard")
    tags = events.Tags()
    assert {"train/loss", "val/loss", "val/f1", "train/lr", "train/images_per_second"} <= set(tags["scalars"])
    assert {"val/precision/across", "val/recall/along", "test/accuracy"} <= set(tags["scalars"])
    assert {"val/confusion", "val/mistakes", "best_test/confusion", "best_val/mistakes"} <= set(tags["images"])
    assert "best_test/classes" in tags["images"]
    assert "summary/text_summary" in tags["tensors"]
    assert [event.step for event in events.Scalars("val/f1")] == [0, 1]  # epochs, not batches
    plugins = events.summary_metadata
    assert any("hparams" in name for name in plugins)
    assert "custom_scalars__config__" in plugins
    curves = {tag for tag, metadata in plugins.items() if metadata.plugin_data.plugin_name == "pr_curves"}
    assert curves == {f"best_{s}/pr/{name}" for s in ("val", "test") for name in ("across", "along", "plain")}
    assert not (finished_run / "tensorboard" / "projector_config.pbtxt").exists()


def test_precision_recall_curves_equal_scikit_learn(data, tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), 20)
    names = ["across", "along", "plain"]
    found = result(data, [(names[k % 2], names[int(p.argmax())], p) for k, p in enumerate(scores)])
    with SummaryWriter(str(tmp_path)) as writer:
        tensorboard.add_classes(writer, found, step=3, tag="best_test")
    events = logged(tmp_path)
    assert set(events.Tags()["tensors"]) == {"best_test/pr/across", "best_test/pr/along"}
    (event,) = events.Tensors("best_test/pr/along")
    assert event.step == 3
    _, _, _, _, precision, recall = make_ndarray(event.tensor_proto)
    truth = found.predictions["label"] == "along"
    for k, threshold in list(enumerate(np.linspace(0, 1, 127)))[::14]:
        chosen = found.predictions["probability_along"] >= threshold
        assert precision[k] == pytest.approx(precision_score(truth, chosen, zero_division=1.0))
        assert recall[k] == pytest.approx(recall_score(truth, chosen))
    assert (precision[-1], recall[-1]) == (1, 0)  # nothing is predicted


def test_mistakes_are_drawn_in_order_of_confidence(data):
    sure, unsure, right = (0.1, 0.9, 0.0), (0.3, 0.6, 0.1), (0.8, 0.1, 0.1)
    found = result(data, [("across", "across", right), ("across", "along", unsure), ("across", "along", sure)])
    sheet = evaluation_plots.draw_mistakes(found, data)
    first, second = sheet[30:180, 10:160], sheet[30:180, 170:320]
    for shown, row in ((first, 2), (second, 1)):
        expected = Image.fromarray(data.read_images(np.array([row]))[0]).resize((150, 150))
        np.testing.assert_array_equal(shown, np.asarray(expected))
    assert (sheet[30:180, 330:] == 255).all()  # the image that was right is not there
    none = evaluation_plots.draw_mistakes(result(data, [("across", "across", right)]), data)
    assert (none[40:] == 255).all()
    assert (none[:30] < 255).any()
    assert len(result(data, [("across", "along", sure)] * 30).mistakes) > evaluation_plots.MAX_MISTAKES
    assert len(evaluation_plots.draw_mistakes(result(data, [("across", "along", sure)] * 30), data)) == 30 + 4 * 210


@pytest.mark.slow
def test_embeddings_are_the_pre_logits_of_the_best_epoch(small, tmp_path):
    train(
        compose("train", [*small, "trainer.max_epochs=1", f"run_dir={tmp_path}", "callbacks.dashboard.embeddings=true"])
    )
    run = Run(tmp_path)
    (folder,) = run.tensorboard.glob("*/val")
    best = checkpoint.load_classifier(run.best)
    assert int(folder.parent.name) == checkpoint.read_checkpoint(run.best)["epoch"]
    config = (run.tensorboard / "projector_config.pbtxt").read_text()
    assert "sprite.png" in config
    features = torch.from_numpy(np.loadtxt(folder / "tensors.tsv", dtype=np.float32, ndmin=2))
    table = pd.read_csv(folder / "metadata.tsv", sep="\t")
    catalog = run.catalog()
    validation = catalog[catalog["split"] == "val"]
    assert table["image"].to_list() == validation["path"].to_list()
    assert table["class"].to_list() == validation["label"].to_list()
    with torch.no_grad():
        classes = best.backbone.get_classifier()(features).argmax(dim=1)
    assert table["prediction"].to_list() == [best.classes[k] for k in classes]
    side = int(np.ceil(np.sqrt(len(table)))) * tensorboard.THUMBNAIL
    assert Image.open(folder / "sprite.png").size == (side, side)


def test_embeddings_of_many_images_cover_every_class(data, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "MAX_EMBEDDINGS", 4)
    found = len(data.find_rows("val"))
    rows = data.find_rows("val")[:: -(-found // 4)]

    class Backbone(torch.nn.Module):
        def forward_features(self, x):
            return x

        def forward_head(self, x, pre_logits=False):
            return x.mean((2, 3))

    class Network(torch.nn.Module):
        backbone, classes, device = Backbone(), data.classes, torch.device("cpu")
        mean, std = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)

    with SummaryWriter(str(tmp_path)) as writer:
        tensorboard.add_embeddings(writer, Network(), data, step=0)
    table = pd.read_csv(tmp_path / "00000" / "val" / "metadata.tsv", sep="\t")
    assert table["image"].to_list() == data.catalog["path"].iloc[rows].to_list()
    assert len(table) <= 4 < found
    assert set(table["class"]) == set(data.classes)
    written = np.loadtxt(tmp_path / "00000" / "val" / "tensors.tsv")
    expected = data.read_images(rows).mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(written, expected, atol=6e-4)


def test_metadata_cells_have_no_tabs_or_line_ends():
    assert tensorboard._cell("a\tb\nc") == "a b c"
    assert tensorboard._cell("caf\udce9") == "caf\\udce9"


def test_validation_outputs_are_kept_only_in_epochs_that_are_drawn(tmp_path):
    dashboard = tensorboard.Dashboard(every_n_epochs=2)
    trainer = SimpleNamespace(loggers=[TensorBoardLogger(tmp_path)], current_epoch=0, world_size=1)
    output = (torch.arange(2), torch.zeros(2, 3))
    dashboard.on_validation_batch_end(trainer, None, output, None, 0)
    assert dashboard.outputs == []
    trainer.current_epoch = 1
    dashboard.on_validation_batch_end(trainer, None, output, None, 0)
    assert dashboard.outputs == [output]
    trainer.loggers = []
    dashboard.on_validation_batch_end(trainer, None, output, None, 1)
    assert dashboard.outputs == [output]
