"""The figures: each renders without a warning and shows its numbers."""

import logging
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from alu_defects.reports import comparison_plots, plots


@pytest.fixture(autouse=True)
def no_warning_and_no_chinese_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Behave as on a machine without a font for Chinese."""
    monkeypatch.setattr(plots, "CJK_FONTS", ())
    plots.fonts.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    plots.fonts.cache_clear()


def texts(fig: Figure) -> list[str]:
    return [t.get_text() for t in fig.findobj(Text) if isinstance(t, Text) and t.get_text()]


def assert_renders(fig: Figure) -> None:
    """Check the size of the image, that it is not blank, and that nothing is outside of it."""
    width, height = fig.get_size_inches()
    image = plots.to_image(fig, dpi=80)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.shape, (height * 80, width * 80, 3), atol=1)
    assert image.std() > 1
    ink = fig.get_tightbbox()  # inches
    assert ink.x0 > -0.02
    assert ink.y0 > -0.02
    assert ink.x1 < width + 0.02
    assert ink.y1 < height + 0.02


@pytest.mark.parametrize("number", [2, 11, 20])
def test_confusion_matrix_has_every_count(number: int) -> None:
    rng = np.random.default_rng(number)
    counts = rng.integers(0, 3, (number, number)) + np.diag(rng.integers(1, 2000, number))
    counts[1] = 0  # a class without images
    fig = plots.plot_confusion(counts, [f"class_{k}" for k in range(number)])
    cells = np.zeros_like(counts)
    for t in fig.axes[0].texts:
        column, row = t.get_position()
        cells[int(row), int(column)] = int(t.get_text())
    np.testing.assert_array_equal(cells, counts)
    labels = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert labels == [f"class {k} ({n})" for k, n in enumerate(counts.sum(1))]
    assert f"{np.trace(counts)} of {counts.sum()} images right ({np.trace(counts) / counts.sum():.1%})" in texts(fig)
    assert_renders(fig)


def test_confusion_matrix_is_coloured_by_share_of_the_row() -> None:
    fig = plots.plot_confusion(np.array([[900, 100], [1, 3]]), ["a", "b"])
    shares = np.asarray(fig.axes[0].images[0].get_array(), float)
    np.testing.assert_allclose(shares, [[0.9, 0.1], [0.25, 0.75]])


def test_confusion_matrix_without_images() -> None:
    assert_renders(plots.plot_confusion(np.zeros((3, 3), np.int64), ["a", "b", "c"]))


def test_confusion_matrix_in_per_cent() -> None:
    fig = plots.plot_confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], in_per_cent=True)
    assert [t.get_text() for t in fig.axes[0].texts] == ["75", "25"]
    assert "Per cent of each true class" in texts(fig)


def metrics(epochs: int) -> pd.DataFrame:
    e = np.arange(epochs)
    columns = {name: 1 - 0.9 * np.exp(-e / 5) for name in ("val/accuracy", "val/precision", "val/recall", "val/f1")}
    return pd.DataFrame({"epoch": e, "train/loss": 2 * np.exp(-e / 5), "val/loss": 2.2 * np.exp(-e / 6), **columns})


def test_curves_draw_recorded_columns_and_mark_the_best_epoch() -> None:
    frame = metrics(12)
    frame.loc[7, "val/f1"] = 0.987
    frame.loc[3, "train/loss"] = np.nan
    fig = plots.plot_curves(frame)
    lines = {line.get_label(): line for ax in fig.axes for line in ax.lines}
    assert set(lines) == {"train", "validation", "accuracy", "macro recall", "macro F1", "best epoch"}
    np.testing.assert_allclose(np.asarray(lines["macro F1"].get_ydata(), float), frame["val/f1"])
    assert 4 not in np.asarray(lines["train"].get_xdata())
    assert list(np.asarray(lines["best epoch"].get_xdata())) == [8, 8]
    assert "Best val/f1: 0.987 at epoch 8" in texts(fig)
    assert_renders(fig)


def test_curves_mark_the_smallest_loss() -> None:
    frame = metrics(6)
    frame.loc[4, "val/loss"] = 0.01
    assert "Best val/loss: 0.010 at epoch 5" in texts(plots.plot_curves(frame, monitor="val/loss"))


@pytest.mark.parametrize(
    "frame",
    [
        metrics(1),
        metrics(60),
        metrics(0),
        metrics(3)[["epoch", "train/loss"]],
        metrics(4).assign(**{"val/loss": np.inf}),
    ],
    ids=["one epoch", "many epochs", "no epoch", "training loss only", "diverged"],
)
def test_curves_of_incomplete_metrics(frame: pd.DataFrame) -> None:
    assert_renders(plots.plot_curves(frame))


def test_loss_with_a_spike_has_a_log_scale() -> None:
    frame = metrics(12)
    assert plots.plot_curves(frame).axes[0].get_yscale() == "linear"
    frame.loc[2, "val/loss"] = 500
    assert plots.plot_curves(frame).axes[0].get_yscale() == "log"


def test_classes_are_sorted_by_recall_and_missing_values_named() -> None:
    recall = np.array([0.9, 0.4, np.nan, 0.7])
    precision = np.array([0.8, 0.5, 0.0, np.nan])
    fig = plots.plot_classes(precision, recall, np.array([50, 10, 0, 7]), ["good", "pit", "not_there", "never_said"])
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["pit (10)", "never said (7)", "good (50)", "not there (0)"]
    assert ax.yaxis_inverted()
    said = texts(fig)
    assert {"recall 40.0%", "precision 50.0%", "no images", "never predicted"} <= set(said)
    assert {"macro recall 66.7%", "macro precision 43.3%"} <= set(said)
    assert "Weakest class: pit, 40.0% of 10 images found" in said
    assert_renders(fig)


@pytest.mark.parametrize("number", [2, 20])
def test_classes_of_any_number(number: int) -> None:
    values = np.linspace(0.9, 1, number)
    names = [f"a_rather_long_class_name_{k}" for k in range(number)]
    assert_renders(plots.plot_classes(values, values, np.full(number, 9), names))


def test_classes_without_images() -> None:
    fig = plots.plot_classes(np.full(2, np.nan), np.full(2, np.nan), np.zeros(2, np.int64), ["a", "b"])
    assert "No class has images: recall is undefined" in texts(fig)
    assert_renders(fig)


def test_names_without_a_font_stay_different() -> None:
    fig = plots.plot_confusion(np.eye(3, dtype=np.int64), ["不导电", "擦花", "$x_1$ odd$"])
    labels = [t.get_text() for t in fig.axes[0].get_xticklabels()]
    assert labels == ["\\u4e0d\\u5bfc\\u7535", "\\u64e6\\u82b1", "$x 1$ odd$"]
    assert_renders(fig)


def test_any_text_without_a_font_renders_and_the_reason_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    plots._say_no_font.cache_clear()
    caplog.set_level(logging.WARNING)
    note = "1 image is not counted, since the run does not know its class: 擦花 (1), cost in $ or $$"
    fig = plots.plot_confusion(np.eye(2, dtype=np.int64), ["a", "b"], note)
    assert "class: \\u64e6\\u82b1 (1)," in " ".join(" ".join(texts(fig)).split())
    assert_renders(fig)  # also the long note beside two classes
    assert_renders(plots.plot_curves(pd.DataFrame({"epoch": [0], "val/recall/桔皮": [0.5]}), monitor="val/recall/桔皮"))
    assert caplog.text.count("no font with Chinese here: install fonts-noto-cjk, or ") == 1


def test_long_names_of_models_are_not_cut() -> None:
    options = "data.sampler=balanced augment.crop=0.6 loss.class_weights=balanced"
    models = [f"inceptionv4_scse model.width={width} {options}" for width in (0.5, 0.75, 1.0, 2.0)]
    scores = {"support": 9, "recall": 0.5, "precision": 0.4, "f1": 0.5}
    rows = [{"group": model, "class": name, **scores} for model in models for name in ("a", "b")]
    intervals = {"accuracy_low": 0.4, "accuracy_high": 0.6, "accuracy_session_low": 0.3, "accuracy_session_high": 0.7}
    table = pd.DataFrame([{"group": model, "accuracy": 0.5, **intervals} for model in models])
    history = pd.DataFrame({"epoch": [0, 1], "val/f1": [0.3, 0.5]})
    for fig in (
        comparison_plots.plot_class_map(pd.DataFrame(rows)),
        comparison_plots.plot_accuracies(table, {model: [0.4, 0.6] for model in models}, 0.2),
        comparison_plots.plot_epochs({model: [history] for model in models}, "val/f1", "macro F1", "Curves"),
    ):
        assert_renders(fig)
        written = " ".join(" ".join(texts(fig)).split())
        assert all(model.replace("_", " ") in written for model in models)


def test_installed_font_for_chinese_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in, usual = (FT2Font(font_manager.findfont(name)).get_charmap() for name in ("STIXGeneral", "DejaVu Sans"))
    only_there = chr(min(set(stand_in) - set(usual)))  # STIXGeneral comes with matplotlib: no Chinese font is needed
    monkeypatch.setattr(plots, "CJK_FONTS", ("no such font", "STIXGeneral"))
    plots.fonts.cache_clear()
    fig = plots.plot_confusion(np.eye(2, dtype=np.int64), [only_there, "ok"])
    assert fig.axes[0].get_xticklabels()[0].get_text() == only_there
    assert_renders(fig)


def test_size_of_an_image_follows_dpi() -> None:
    fig = Figure((3, 2))
    assert plots.to_image(fig).shape == (200, 300, 3)
    assert plots.to_image(fig, dpi=40).shape == (80, 120, 3)
