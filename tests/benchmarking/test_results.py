import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
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
    text = shown(table, 80)
    for cell in ("throughput", "[shufflenet]", "123 (119–128)", "–", "One note."):
        assert cell in text
    assert [column.justify for column in table.to_rich(80).columns] == ["left", "right", "right", "right"]


def shown(table: Table, width: int) -> str:
    """What the terminal shows, in which no line is too long."""
    console = Console(width=width, file=io.StringIO())
    console.print(table.to_rich(console.width))
    text = console.file.getvalue()
    assert max(cell_len(line) for line in text.splitlines()) <= width
    return text


def assert_cells_are_whole(table: Table, width: int) -> None:
    """Every cell and every name of a column stands in one piece between two lines of a table, or in a title."""
    lines = [re.split(r"[│┃]", line) for line in shown(table, width).splitlines()]
    pieces = {piece.strip() for line in lines for piece in (*line, *"".join(line).split(", "))}
    named = {f"{name} {for_people(value)}" for name in table.frame for value in table.frame[name]}
    for name in table.frame:
        assert str(name) in pieces or named & pieces or name == table.frame.columns[0]
        for value in table.frame[name]:
            assert {for_people(value), f"{name} {for_people(value)}"} & pieces, (name, value)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("network", ["inceptionv4_scse", "timm/vit_base_patch14_reg4_dinov2.lvd142m"])
def test_a_table_wider_than_the_terminal_has_a_block_for_each_network(network, width):
    wide = Spread(1234, 1100, 1350)
    trained = {"network": network, "precision": "bf16-mixed", "parameters (M)": 43.1, "GMACs": 1.58}
    trained |= dict.fromkeys(("eager (img/s)", "3 Lightning (img/s)", "1 / eager", "2 / 1", "3 / 2"), wide)
    trained |= {"share of the matrix peak": None}
    table = Table("training", pd.DataFrame([trained, {**trained, "network": "xception"}]))
    assert_cells_are_whole(table, width)
    assert shown(table, 500).count("share of the matrix peak") == 1
    assert shown(table, width).count("share of the matrix peak") == 2
    rows = [
        {"network": name, "pixels": 128, "batch": batch, "variant": variant, "img/s": wide, "× eager": wide, "s": 0.08}
        for name in (network, "xception")
        for batch in (8, 64)
        for variant in ("eager", "channels_last", "bf16")
    ]
    assert_cells_are_whole(Table("throughput", pd.DataFrame(rows), "A note. " * 30), width)
    assert shown(Table("throughput", pd.DataFrame(rows)), 80).count("channels_last") == 4


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
