"""Hours that differ from the reference are warned of, others are not, and kills change nothing in that."""

import csv
import json
import logging
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alu_defects.deployment import drift
from alu_defects.deployment.drift import SHARE, Drift, Reference
from alu_defects.deployment.ledger import Ledger
from alu_defects.errors import UserError

WITH_THRESHOLD = SimpleNamespace(score_threshold=0.5)
WITHOUT = SimpleNamespace(score_threshold=None)


def neighbours(rng: np.random.Generator, number: int, likeness: float) -> np.ndarray:
    """Standard normal values that resemble the one before."""
    values = rng.standard_normal(number)
    for place in range(1, number):
        values[place] = likeness * values[place - 1] + np.sqrt(1 - likeness**2) * values[place]
    return values


def warned(make, name: str, trials: int = 400) -> float:
    """Share of hours, made as the reference is, that are warned of."""
    hits = 0
    for _ in range(trials):
        reference = Reference.measure("m", {name: make(500)})
        hits += bool(reference.compare({name: make(500)})["warning"])
    return hits / trials


@pytest.mark.parametrize(
    ("name", "make", "highest"),
    [
        ("brightness", lambda rng: lambda n: 120 + 9 * rng.standard_normal(n), 0.01),
        ("brightness", lambda rng: lambda n: 120 + 9 * neighbours(rng, n, 0.9), 0.06),
        ("confidence", lambda rng: lambda n: rng.beta(9, 1, n), 0.01),
        (SHARE, lambda rng: lambda n: (rng.random(n) < 0.02).astype(float), 0.02),
        (SHARE, lambda rng: lambda n: (rng.random(n) < 0.001).astype(float), 0.01),
        (SHARE, lambda rng: np.zeros, 0.0),
    ],
)
def test_hours_like_the_reference_are_seldom_warned_of(name, make, highest):
    assert warned(make(np.random.default_rng(0)), name) <= highest


@pytest.mark.parametrize(
    ("name", "reference", "hour"),
    [
        ("brightness", lambda rng: 120 + 9 * rng.standard_normal(500), lambda rng: 116 + 9 * rng.standard_normal(500)),
        ("confidence", lambda rng: rng.beta(9, 1, 500), lambda rng: rng.beta(5, 1, 500)),
        (SHARE, lambda rng: rng.random(500) < 0.02, lambda rng: rng.random(500) < 0.08),
        (SHARE, lambda rng: np.zeros(500), lambda rng: np.arange(500) < 10),
    ],
)
def test_hours_that_differ_are_warned_of(name, reference, hour):
    rng = np.random.default_rng(0)
    made = Reference.measure("m", {name: reference(rng).astype(float)})
    row = made.compare({name: hour(rng).astype(float)})
    assert drift.TITLES[name] in row["warning"]
    assert not row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_limits_are_those_of_the_formula():
    values = np.arange(500) % 100 / 100
    made = Reference.measure("m", {"confidence": values})
    batches = values.reshape(20, 25).mean(axis=1)
    deviation = max(values.std(ddof=1), 5 * batches.std(ddof=1))
    low, high = made.limits("confidence", 200)
    assert (low + high) / 2 == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(3 * deviation * np.sqrt(1 / 200 + 1 / 500))


class Line:
    """Rows of a station, made at a time of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.number = folder, 0
        self.now = datetime(2026, 11, 27, 8).astimezone()
        clock = SimpleNamespace(now=lambda: self.now, fromisoformat=datetime.fromisoformat)
        monkeypatch.setattr(drift, "datetime", clock)
        self.rng = np.random.default_rng(0)
        self.start()

    def start(self, **options) -> None:
        """Begin, or begin again after a kill."""
        self.ledger = Ledger(self.folder / "ledger.sqlite")
        options = {"bundle": WITH_THRESHOLD, "model": "m", "reference": None, "images": 500} | options
        self.drift = Drift(self.ledger, self.folder, **options)

    def kill(self, **options) -> None:
        self.ledger.close()
        self.start(**options)

    def decide(self, images: int, brightness: float = 120, model: str = "m", minutes: float = 0) -> None:
        rows = []
        for _ in range(images):
            self.number += 1
            self.now += timedelta(minutes=minutes / images)
            row = {"path": str(self.number), "sha256": str(self.number), "status": "ok", "model": model}
            row |= {"confidence": 0.9 + 0.01 * self.rng.random(), "brightness": brightness + self.rng.standard_normal()}
            rows.append(row | {"decision": "pass", "time": self.now.isoformat()})
        self.ledger.add(rows, [])
        self.drift.add(rows)
        self.drift.close_hour()

    def hours(self) -> list[dict[str, str]]:
        with (self.folder / "drift.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def line(tmp_path, monkeypatch) -> Line:
    return Line(tmp_path, monkeypatch)


def test_the_first_images_are_the_reference_and_each_hour_is_compared(line, caplog):
    line.decide(500, minutes=30)
    assert json.loads((line.folder / "reference_m.json").read_text())["images"] == 500
    assert line.hours() == []
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        line.decide(300, minutes=61)
        assert caplog.messages == []
        line.decide(200, minutes=50, brightness=110)
        line.decide(10, minutes=11, brightness=110)
    assert len(caplog.messages) == 1
    assert "drift: mean brightness is 110." in caplog.messages[0]
    first, second = line.hours()
    assert (first["images"], first["warning"]) == ("300", "")
    assert second["images"] == "210"
    assert "brightness" in second["warning"]
    assert line.drift.state()["last_hour"]["warning"] == second["warning"]


def test_a_slow_line_waits_for_images_enough_and_a_clock_set_back_ends_the_hour(line):
    line.decide(500)
    line.decide(60, minutes=90)
    assert line.hours() == []
    line.decide(60, minutes=90)
    assert [hour["images"] for hour in line.hours()] == ["120"]
    line.decide(150, minutes=10)
    line.now -= timedelta(hours=5)
    line.decide(1)
    assert [hour["images"] for hour in line.hours()] == ["120", "151"]


def test_kills_change_nothing(line):
    line.decide(300)
    line.kill()
    line.decide(200)
    assert (line.folder / "reference_m.json").exists()
    line.decide(150, minutes=30)
    line.kill()
    line.decide(100, minutes=31)
    line.kill()
    assert [hour["images"] for hour in line.hours()] == ["250"]
    assert line.drift.last_hour["images"] == 250


def test_a_reference_that_was_removed_is_made_again_of_what_comes(line):
    line.decide(500)
    line.decide(100, minutes=5)
    (line.folder / "reference_m.json").unlink()
    line.kill()
    line.decide(400, brightness=90)
    assert line.drift.state()["reference"] == "400 of 500 images of the reference"
    line.kill()
    line.decide(100, brightness=90)
    centre = json.loads((line.folder / "reference_m.json").read_text())["centres"]["brightness"]
    assert centre["mean"] == pytest.approx(90, abs=0.5)


def test_another_network_gets_its_own_reference(line):
    line.decide(500)
    line.kill(model="other")
    line.decide(500, model="other")
    assert {file.name for file in line.folder.glob("reference_*")} == {"reference_m.json", "reference_other.json"}


def test_a_reference_from_elsewhere_must_be_of_the_network(line, tmp_path):
    line.decide(500)
    given = tmp_path / "given.json"
    (line.folder / "reference_m.json").rename(given)
    line.kill(reference=given)
    line.decide(120, minutes=61)
    assert len(line.hours()) == 1
    with pytest.raises(UserError, match="is of the network m, and run is other"):
        line.kill(reference=given, model="other")
    line.ledger.close()
    with pytest.raises(UserError, match="is of the network m"):
        line.kill(reference=given, bundle=WITHOUT)
    for content in ("", "[]", "{}", '{"model": 1, "images": 2, "centres": [1]}'):
        given.write_text(content)
        line.ledger.close()
        with pytest.raises(UserError, match=r"given\.json cannot be read"):
            line.kill(reference=given)


def test_without_a_class_of_good_pieces_there_is_no_share_of_rejects(line):
    line.kill(bundle=WITHOUT)
    line.decide(500)
    line.decide(120, minutes=61)
    assert line.hours()[0]["rejects"] == ""
    assert line.hours()[0]["confidence"] != ""
