import math
from functools import cache

import pytest
from omegaconf import OmegaConf

from alu_defects.benchmarking import scale
from alu_defects.benchmarking.timing import Spread
from alu_defects.config import compose, plain
from alu_defects.data import catalog, sessions, splits
from alu_defects.errors import UserError
from alu_defects.tianchi_classes import CLASS_NAMES


@cache
def fast():
    return compose("benchmark", ["what=scale", "repeats=1", "rows=[100,200]", "trainer.enable_progress_bar=false"])


def config(**settings):
    return OmegaConf.merge(fast(), settings)


@pytest.mark.parametrize("number", [scale.LEAST, 1234])
def test_images_are_as_many_as_asked_for_and_can_be_divided(number, tmp_path):
    taken = list(scale.images(number))
    assert len({p.path for p in taken}) == len({p.sha256 for p in taken}) == number
    assert {p.label for p in taken} == set(CLASS_NAMES)
    table = catalog.build_catalog(tmp_path, taken, [], CLASS_NAMES).table
    assert (table["time"] != "").all()
    assert table.groupby(sessions.find_sessions(table, 60)).size().max() == 3  # the sessions, and nothing else
    divided = splits.split_catalog(table, **plain(config().split))
    assert set(divided["split"]) == {"train", "val", "test"}


def test_every_number_of_rows_is_measured_in_a_process_of_its_own():
    seconds, memory = scale.measure(config())
    assert seconds.frame["stage"].tolist() == list(scale.STAGES)
    for column in ("100 rows (s)", "200 rows (s)"):
        by_stage = seconds.frame.set_index("stage")[column].map(lambda spread: spread.median)
        assert (by_stage > 0).all()
        assert by_stage["total"] == pytest.approx(by_stage.drop(["total", scale.PAIRS]).sum())
    assert seconds.frame["growth"].notna().all()
    assert memory.frame["rows"].tolist() == [100, 200]
    for row in memory.frame.to_dict("records"):
        assert 20 < row["most (MB)"].median < 300  # without torch, which this process may have imported
        assert 0 <= row["after the imports (MB)"].median < 50


def test_growth_and_the_comparison_of_all_pairs_are_extrapolated():
    def cost(factor):
        return dict.fromkeys(scale.STAGES, Spread.of([factor])) | {scale.MEMORY: Spread.of([90.0])}

    pairs = scale.PAIRS
    beyond = {stage: spread for stage, spread in cost(200.0).items() if stage != pairs}
    table = scale._seconds({1_000: cost(1.0), 10_000: cost(2.0), 100_000: beyond}, "split=session")
    growth = table.frame.set_index("stage")["growth"]
    assert growth["build"] == pytest.approx(2)
    assert math.isnan(growth[pairs])
    assert "measured up to 10,000 rows; 100,000 rows would take 200 s" in table.note
    assert table.to_json()["rows"][-1]["100,000 rows (s)"] is None
    alone = scale._seconds({10_000: cost(2.0)}, "split=session")
    assert "growth" not in alone.frame
    assert "would take" not in alone.note


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": [10, 1000]}, "from 100 on"),
        ({"rows": []}, "from 100 on"),
        ({"rows": ["many"]}, "from 100 on"),
        ({"repeats": 0}, "repeats=0"),
        ({"split": {"name": "sesion"}, "rows": [100]}, "split.name=sesion does not exist; did you mean session"),
    ],
)
def test_what_cannot_be_measured_is_named_with_its_fix(settings, message):
    with pytest.raises(UserError, match=message):
        scale.measure(config(**settings))
