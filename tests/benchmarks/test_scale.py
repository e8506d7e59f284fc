"""Catalogs of a few hundred rows."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from alu_defects.benchmarking.measurement import Spread
from alu_defects.config import compose, plain
from alu_defects.data import catalog, sessions, splits
from alu_defects.errors import UserError
from alu_defects.tianchi_classes import CLASS_NAMES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scale.py"


@pytest.fixture(scope="module")
def scale():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("number", [100, 1234])
def test_images_are_as_many_as_asked_for_and_can_be_split(scale, number, tmp_path):
    images = list(scale["create_images"](number))
    assert len({image.path for image in images}) == len({image.sha256 for image in images}) == number
    table = catalog.build_catalog(images, [], CLASS_NAMES).table
    assert (table["time"] != "").all()
    assert table.groupby(sessions.find_sessions(table, 60)).size().max() == 3  # the sessions, and nothing else
    split = splits.split_catalog(table, **plain(compose("train").split))
    assert set(split["split"]) == {"train", "val", "test"}


def test_every_number_of_rows_is_measured_in_a_process_without_torch(scale):
    words = [sys.executable, str(SCRIPT), "--rows", "100", "200", "--repeats", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    cells = {line[0]: line[1:] for line in lines}
    assert set(scale["STAGES"]) < set(cells)
    assert all(float(seconds) > 0 for seconds in cells["total"][:2])
    for rows in ("100", "200"):
        peak, added = map(float, cells[rows])
        assert 20 < peak < 300  # torch alone takes more
        assert 0 <= added < 50


def test_growth_and_the_comparison_of_all_pairs_are_extrapolated(scale):
    def costs(seconds, *without):
        return {stage: Spread.of_rounds([seconds]) for stage in scale["STAGES"] if stage not in without}

    pairs = "near-duplicates"
    spreads = {1_000: costs(1.0), 10_000: costs(2.0), 100_000: costs(200.0, pairs)}
    table = scale["seconds_table"](spreads, "split=session")
    rows = {row["stage"]: row for row in table.rows}
    assert rows["build"]["growth"] == pytest.approx(2)
    assert rows[pairs]["growth"] is rows[pairs]["100,000 rows (s)"] is None
    assert "measured up to 10,000 rows; 100,000 rows would take 200 s" in table.note
    alone = scale["seconds_table"]({10_000: costs(2.0)}, "split=session")
    assert "growth" not in alone.rows[0]
    assert "would take" not in alone.note


def test_too_few_rows_are_refused(scale):
    with pytest.raises(UserError, match="--rows 10 is too few; give 100 or more"):
        scale["measure"]([10, 1000], 1)
