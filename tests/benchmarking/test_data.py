"""The data path beside ImageFolder, on a few small images."""

import time
from pathlib import Path

import pytest
import torch

from alu_defects.benchmarking import data, memory
from alu_defects.config import compose
from alu_defects.errors import UserError

FAST = ["what=data", "data=folder", "data.image_size=32", "split=random", "trainer=cpu", "repeats=2", "seconds=0.001"]


def test_all_ways_take_the_same_images_and_are_compared_with_image_folder(photographs: Path) -> None:
    words = [*FAST, f"data.root={photographs}", "data.batch_size=4", "images=18"]  # the last two make no batch
    (table,) = data.measure(compose("benchmark", words))
    assert table.title == "data path: 16 images of 64×48"
    rows = {row["way"]: row for row in table.to_json()["rows"]}
    assert list(rows) == [data.IMAGE_FOLDER, data.BUILD, data.LATER, data.AUGMENTED]
    assert rows[data.IMAGE_FOLDER]["× ImageFolder"] == {"median": 1, "low": 1, "high": 1}
    assert rows[data.LATER]["× ImageFolder"]["median"] > 5
    assert rows[data.IMAGE_FOLDER]["disk (MB)"] == 0
    assert rows[data.LATER]["disk (MB)"] == pytest.approx(16 * (32 * 32 * 3 + 160) / 1e6)


def test_fewer_images_than_a_batch_are_refused(photographs: Path) -> None:
    with pytest.raises(UserError, match="images=7 is fewer than a batch; give 16 or more"):
        data.measure(compose("benchmark", [*FAST, f"data.root={photographs}", "images=7"]))


def test_decoding_is_extrapolated_from_a_sample(photographs: Path) -> None:
    words = [*FAST, f"data.root={photographs}", "images=10", "rows=[100,1000]"]
    table = data.extrapolated(compose("benchmark", words)).to_json()
    few, many = table["rows"]
    assert many["decoding (s)"]["median"] == pytest.approx(10 * few["decoding (s)"]["median"])
    assert many["disk (GB)"] == pytest.approx(1000 * (32 * 32 * 3 + 160) / 1e9)


def test_memory_that_is_held_for_a_moment_is_seen() -> None:
    def hold() -> None:
        held = torch.ones(25_000_000)
        time.sleep(0.2)
        assert held.sum() > 0

    assert memory.added(hold) > 0.8e8
    assert memory.peak() > 1e8
    held = memory.Peak(torch.device("cpu"))
    hold()
    assert held.above() > 0.8e8
