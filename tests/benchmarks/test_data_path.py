"""The data path beside ImageFolder, on a few small images."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from alu_defects.errors import UserError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "data_path.py"
SETTINGS = ["data=folder", "data.image_size=32", "data.batch_size=4", "split=random", "trainer=cpu"]


@pytest.fixture(scope="module")
def data_path() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_all_ways_take_the_same_images_and_are_compared_with_image_folder(
    data_path: dict[str, Any], photographs: Path
) -> None:
    words = [*SETTINGS, f"data.root={photographs}"]
    table, extrapolated = data_path["measure"](18, 2, 0.001, words)  # the last two make no batch
    assert table.title == "data path: 16 images of 64×48"
    rows = {row["way"]: row for row in table.rows}
    assert list(rows) == [data_path[name] for name in ("IMAGE_FOLDER", "FIRST", "LATER", "AUGMENTED")]
    assert rows["ImageFolder"]["× ImageFolder"].low == rows["ImageFolder"]["× ImageFolder"].high == 1
    assert rows["a later epoch"]["× ImageFolder"].median > 5
    assert rows["ImageFolder"]["disk (MB)"] == 0
    assert rows["a later epoch"]["disk (MB)"] == pytest.approx(16 * (32 * 32 * 3 + 160) / 1e6)
    assert extrapolated.rows[0]["disk (GB)"] == pytest.approx(1000 * (32 * 32 * 3 + 160) / 1e9)


def test_fewer_images_than_a_batch_are_refused(data_path: dict[str, Any], photographs: Path) -> None:
    with pytest.raises(UserError, match="--images 3 is fewer than a batch; give 4 or more"):
        data_path["measure"](3, 2, 0.001, [*SETTINGS, f"data.root={photographs}"])
