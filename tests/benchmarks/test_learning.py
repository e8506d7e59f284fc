"""The tables of what is learned: finished rows stay, and the simple classifiers they are compared with."""

import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import learning


def test_finished_rows_are_not_measured_again(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(learning, "run_job", lambda words, folder: ran.append(folder.name) or {"test f1": 0.5})
    words = ["learning.py", "networks", "--models", "xception", "--seeds", "0", "1", "--scratch", str(tmp_path)]
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", [*words[:5], *seeds, *words[7:], "--output", str(tmp_path / "t.csv")])
        learning.main()
    assert ran == ["xception_0", "xception_1"]
    assert pd.read_csv(tmp_path / "t.csv").to_dict("list") == {
        "model": ["xception"] * 2,
        "seed": [0, 1],
        "test f1": [0.5, 0.5],
    }


def test_robustness_needs_the_images(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["learning.py", "robustness"])
    with pytest.raises(SystemExit):
        learning.main()


def test_the_baselines_tell_bright_images_from_dark_ones(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        label = "bright" if number % 3 else "dark"
        level = 150 if label == "bright" else 90
        pixels = (level + rng.integers(0, 40, (40, 50))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", label, "train" if number < 30 else "test"))
    scores = learning.baselines(tmp_path, pd.DataFrame(rows, columns=["path", "label", "split"]))
    assert scores["thumbnails accuracy"] == 1
    assert scores["majority accuracy"] == pytest.approx(2 / 3)
    assert scores["majority f1"] == pytest.approx(0.4)


def test_an_unbalanced_set_has_seven_of_ten_images_in_one_class(tmp_path):
    for name in "abcdef":
        (tmp_path / "neu" / name).mkdir(parents=True)
        for number in range(300):
            (tmp_path / "neu" / name / f"{number}.jpg").touch()
    (word,) = learning.SETS["neu_unbalanced"](tmp_path / "neu", tmp_path)
    counts = [len(list(path.iterdir())) for path in sorted((tmp_path / "neu_unbalanced").iterdir())]
    assert word == f"data.root={tmp_path / 'neu_unbalanced'}"
    assert counts[0] / sum(counts) == pytest.approx(0.71, abs=0.01)
