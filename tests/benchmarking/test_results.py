import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from alu_defects.benchmarking.results import Table, document, for_people
from alu_defects.benchmarking.timing import Spread


@pytest.fixture
def table():
    rows = [
        {"network": "xception", "batch": 8, "img/s": Spread(123.456, 119.21, 128.04), "GMACs": 8.357403496},
        {"network": "[shufflenet]", "batch": 64, "img/s": Spread(2.0, 2.0, 2.0), "GMACs": None},
    ]
    return Table("throughput", pd.DataFrame(rows), "One note.")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123456, "0.0123"),
        (9.999, "10.0"),
        (99.96, "100"),
        (12.3456, "12.3"),
        (1234.5, "1,230"),
        (0.0, "0.00"),
        (-1.5, "-1.50"),
        (1_000_000, "1,000,000"),
        (np.int64(12345), "12,345"),
        (np.float32(2.5), "2.50"),
        (float("nan"), "–"),
        (None, "–"),
        ("text", "text"),
        (Spread(12.34, 11.91, 12.79), "12.3 (11.9–12.8)"),
        (Spread(1.0, 0.9999, 1.0001), "1.00"),
    ],
)
def test_people_see_three_digits(value, text):
    assert for_people(value) == text


def test_json_has_everything_unrounded(table):
    content = table.to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content == {
        "title": "throughput",
        "note": "One note.",
        "rows": [
            {
                "network": "xception",
                "batch": 8,
                "img/s": {"median": 123.456, "low": 119.21, "high": 128.04},
                "GMACs": 8.357403496,
            },
            {
                "network": "[shufflenet]",
                "batch": 64,
                "img/s": {"median": 2.0, "low": 2.0, "high": 2.0},
                "GMACs": None,
            },
        ],
    }


def test_markdown_has_the_numbers_to_the_right(table):
    assert table.to_markdown().splitlines() == [
        "## throughput",
        "",
        "| network | batch | img/s | GMACs |",
        "| --- | ---: | ---: | ---: |",
        "| xception | 8 | 123 (119–128) | 8.36 |",
        "| [shufflenet] | 64 | 2.00 | – |",
        "",
        "One note.",
    ]


def test_the_terminal_shows_the_same(table):
    console = Console(width=80, file=io.StringIO())
    console.print(table.to_rich())
    text = console.file.getvalue()
    for cell in ("throughput", "[shufflenet]", "123 (119–128)", "–", "One note."):
        assert cell in text
    assert [column.justify for column in table.to_rich().columns] == ["left", "right", "right", "right"]


def test_a_page_names_the_command_and_the_machine(table):
    machine = {
        "cpu": "one",
        "cores": 2,
        "flags": ["avx2", "sve"],
        "memory (GiB)": None,
        "gpus": [],
        "v": {"torch": "2"},
    }
    page = document("Benchmark infer", "python -m alu_defects.benchmark what=infer", machine, [table, table])
    assert page.startswith("# Benchmark infer\n\n    python -m alu_defects.benchmark what=infer\n\n- cpu: one\n")
    assert "- cores: 2\n- flags: avx2, sve\n- v: torch 2\n\n## throughput" in page
    assert "memory" not in page
    assert page.count("| xception | 8 |") == 2
