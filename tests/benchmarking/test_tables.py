import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from alu_defects.benchmarking.measurement import Spread, Table, format_value

ROWS = [
    {"network": "xception", "batch": 8, "img/s": Spread(123.456, 119.21, 128.04), "GMACs": 8.357403496},
    {"network": "[shufflenet]", "batch": 64, "img/s": Spread(2.0, 2.0, 2.0), "GMACs": None},
]
WIDE = Spread(1234.0, 1100.0, 1350.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123456, "0.0123"),
        (9.999, "10.0"),
        (99.96, "100"),
        (1234.5, "1,230"),
        (0.0, "0.00"),
        (-1.5, "-1.50"),
        (1_000_000, "1,000,000"),
        (None, "–"),
        ("text", "text"),
        (Spread(12.34, 11.91, 12.79), "12.3 (11.9–12.8)"),
        (Spread(1.0, 0.9999, 1.0001), "1.00"),
    ],
)
def test_values_are_rounded_to_three_digits(value, text):
    assert format_value(value) == text


def test_markdown_has_the_numbers_to_the_right():
    assert Table("throughput", ROWS, "One note.").to_markdown().splitlines() == [
        "## throughput",
        "",
        "| network | batch | img/s | GMACs |",
        "| --- | ---: | ---: | ---: |",
        "| xception | 8 | 123 (119–128) | 8.36 |",
        "| [shufflenet] | 64 | 2.00 | – |",
        "",
        "One note.",
    ]


def shown(table: Table, width: int) -> str:
    """What the terminal shows, in which no line is too long."""
    console = Console(width=width, file=io.StringIO())
    console.print(table.to_rich(console.width))
    text = console.file.getvalue()
    assert max(cell_len(line) for line in text.splitlines()) <= width
    return text


def test_terminal_shows_the_same_as_markdown():
    text = shown(Table("throughput", ROWS, "One note."), 80)
    for cell in ("throughput", "[shufflenet]", "123 (119–128)", "–", "One note."):
        assert cell in text


@pytest.mark.parametrize("network", ["inceptionv4_scse", "timm/vit_base_patch14_reg4_dinov2.lvd142m"])
def test_table_wider_than_the_terminal_has_a_block_for_each_network(network):
    trained = {"network": network, "precision": "bf16-mixed", "parameters (M)": 43.1, "GMACs": 1.58}
    trained |= dict.fromkeys(("eager (img/s)", "3 Lightning (img/s)", "1 / eager", "2 / 1", "3 / 2"), WIDE)
    table = Table("training", [trained, {**trained, "network": "xception"}], "A note. " * 30)
    assert shown(table, 500).count("parameters (M)") == 1
    text = shown(table, 80)
    assert text.count("parameters (M)") == text.count("3 Lightning (img/s)") == 2
    assert text.count("1,230 (1,100–1,350)") == 10
    assert network in text


def test_block_of_several_rows_fits_80_columns():
    rows = [
        {
            "network": network,
            "pixels": 128,
            "batch": batch,
            "variant": variant,
            "img/s": WIDE,
            "× eager": Spread(0.0945, 0.0636, 0.126),
            "first call (s)": 0.08,
        }
        for network in ("inceptionv4_scse", "xception")
        for batch in (8, 1024)
        for variant in ("eager", "compiled bf16")
    ]
    text = shown(Table("throughput", rows, names=2), 80)
    assert text.count("inceptionv4_scse, pixels 128") == text.count("xception, pixels 128") == 1
    assert text.count("compiled bf16") == 4
    assert text.count("1,230 (1,100–1,350)") == text.count("0.0945 (0.0636–0.126)") == 8
