"""The load of a server, on a small network."""

import runpy
from pathlib import Path

import pytest

from alu_defects.errors import UserError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serving.py"


@pytest.fixture(scope="module")
def serving():
    return runpy.run_path(str(SCRIPT))


def test_a_server_is_measured_beside_the_predictor_alone(serving, finished_run, photographs):
    load, memory = serving["measure"](
        str(finished_run), str(photographs / "along"), [1, 3], requests=6, repeats=2, soak=20
    )
    rows = {row["clients"]: row for row in load.rows}
    assert list(rows) == [serving["ALONE"], "1", "3"]
    assert rows[serving["ALONE"]]["× alone"].low == rows[serving["ALONE"]]["× alone"].high == 1
    for row in rows.values():
        assert 0 < row["p50 (ms)"].median <= row["p95 (ms)"].median
    # one client waits for each answer before it asks again
    assert rows["1"]["images/s"].median < 1000 / rows["1"]["p50 (ms)"].low * 1.5
    assert [row["requests"] for row in memory.rows] == [2 * (part + 1) for part in range(10)]
    assert all(row["memory (MB)"] > 10 for row in memory.rows)


@pytest.mark.parametrize("clients", [[0], [1, 33]])
def test_more_clients_than_the_queue_holds_are_refused(serving, clients):
    with pytest.raises(UserError, match="give 1 to 32"):
        serving["measure"]("x", "x", clients, requests=100, repeats=1, soak=0)
