"""The page of `alu_defects.serve` in a real browser."""

import csv
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alu_defects.deployment import heat
from alu_defects.deployment.labels import Labels
from alu_defects.deployment.predictor import Predictor

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no browser: apt install chromium")
TOKEN = "0123456789abcdef"
INNER = np.s_[10:-10, 10:-10]  # without the round corners
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []  # Chromium's own rule for root
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Open the page of a client's server; what the browser complains of is an error."""
    complaints: list[str] = []
    contexts = []

    def open_it(client: Any, locale: str = "en-GB", viewport: dict[str, int] | None = None, **options: Any) -> Any:
        context = browser.new_context(locale=locale, viewport=viewport or DESKTOP, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.goto(f"http://127.0.0.1:{client.port}/")
        return page

    yield open_it
    for context in contexts:
        context.close()
    # answers such as 401 are expected where they are provoked
    assert [text for text in complaints if not text.startswith("Failed to load resource: the server responded")] == []


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """One image for each decision of the small network, and files that are none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, grey in (("pass", 20), ("reject", 255), ("ask", 128), ("ask 2", 129)):
        Image.new("RGB", (320, 200), (grey, grey, grey)).save(folder / f"{name}, 图.png")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (folder / "text.jpg").write_text("no image")
    return {file.stem.removesuffix(", 图"): file for file in folder.iterdir()}


def drop(page: Any, *files: Path) -> None:
    """Drop files on the page as the system's file manager does."""
    session = page.context.new_cdp_session(page)
    box = page.locator("#drop").bounding_box()
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": list(map(str, files)), "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


def pixels(place: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(place.screenshot())).convert("RGB")).astype(int)


def drawn(predictor: Predictor, file: Path, place: Any) -> np.ndarray:
    """What `alu_defects.explain` draws, in the size that the page shows it in."""
    image = np.asarray(Image.open(file))
    maps = predictor.outputs(predictor.read(file)[None]).maps
    bundle = predictor.bundle
    own = heat.strength(maps[0, bundle.classes.index("pit")])
    made = Image.fromarray(heat.draw_heat(image, own, bundle.cells, bundle.image_size, bundle.resize))
    return np.asarray(made.resize(pixels(place).shape[1::-1])).astype(int)


def test_a_dropped_image_is_answered_beside_it(running, make_predictor, open_page, images):
    predictor = make_predictor()
    with running(predictor) as client:
        page = open_page(client)
        drop(page, images["reject"])
        page.locator("#decision").get_by_text("Reject").wait_for()
        assert page.locator("#class").inner_text().split() == ["pit", "起坑"]
        assert "defect 100.0%" in page.locator("#reason").inner_text()  # 1 - normal
        assert "threshold of 40.0%" in page.locator("#reason").inner_text()
        lines = page.locator("#bars li").all_inner_texts()
        assert [" ".join(line.split()) for line in lines] == ["pit 90.0%", "scuffed 10.0%", "normal 0.0%"]
        widths = [fill.bounding_box()["width"] for fill in page.locator("#bars .fill").all()]
        assert widths[0] == pytest.approx(9 * widths[1], rel=0.05)
        page.locator("#heat").wait_for()
        picture = page.locator(".picture")
        expected = drawn(predictor, images["reject"], picture)
        difference = np.abs(pixels(picture) - expected)[INNER]
        assert difference.max() < 20  # it has fewer colours between black and yellow
        assert np.abs(255 - expected).max() > 60  # the image alone would not pass
        page.locator("#show-heat").uncheck()
        assert np.abs(pixels(picture)[INNER] - 255).max() == 0
        assert page.locator("#batch").is_hidden()


def test_a_batch_is_a_table_to_download(running, make_predictor, open_page, images, tmp_path):
    chosen = [images[name] for name in ("pass", "reject", "ask", "phone", "text")]
    with running(make_predictor()) as client:
        page = open_page(client)
        page.set_input_files("#files", chosen)
        page.locator("#counts").get_by_text("Error 2").wait_for()
        assert page.locator("#counts").inner_text() == "5 images · Pass 1 · Reject 1 · Ask a person 1 · Error 2"
        assert "HEIC images cannot be read" in page.locator("#rows tr").nth(3).inner_text()
        assert "not a JPEG" in page.locator("#rows tr").nth(4).inner_text()
        page.locator("#rows button").nth(0).click()
        page.locator("#decision").get_by_text("Pass").wait_for()
        with page.expect_download() as started:
            page.locator("#download").click()
        started.value.save_as(file := tmp_path / "table.csv")
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened))
        assert [row["path"] for row in rows] == [file.name for file in chosen]
        for row, path in zip(rows[:3], chosen, strict=False):
            answer = client("POST", "/predict?path=x", path.read_bytes()).json
            assert row == {key: f"{value}" for key, value in answer.items()} | {"path": path.name} | {
                key: row[key] for key in answer if key.startswith(("p_", "confidence"))
            }
            assert float(row["confidence"]) == answer["confidence"]
        assert [row["status"] for row in rows] == ["ok"] * 3 + ["error"] * 2
        page.locator("#clear").click()
        assert page.locator("#batch").is_hidden()
        assert page.locator("#result").is_hidden()


def test_a_person_labels_what_the_network_is_unsure_of(running, make_predictor, open_page, images, tmp_path):
    with running(make_predictor(), Labels(tmp_path / "labels")) as client:
        page = open_page(client)
        page.set_input_files("#files", [images["pass"], images["ask"], images["ask 2"]])
        page.locator("#counts").get_by_text("Ask a person 2").wait_for()
        assert page.locator("#ask").is_hidden()
        page.locator("#rows button").nth(1).click()
        page.locator("#labels").get_by_text("scuffed").click()
        page.locator("#name").get_by_text("ask 2").wait_for()  # the next one
        page.locator("#labels").get_by_text("pit").click()
        page.locator("#question").get_by_text("Kept as pit").wait_for()
        page.locator("#labels").get_by_text("normal").click()
        page.locator("#question").get_by_text("Kept as normal").wait_for()
        assert "scuffed (by a person)" in page.locator("#rows tr").nth(1).inner_text()
    with (tmp_path / "labels" / "labels.csv").open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["label"] for row in rows] == ["scuffed", "normal"]
    assert (tmp_path / "labels" / rows[0]["path"]).read_bytes() == images["ask"].read_bytes()


def test_without_a_folder_for_labels_nobody_is_asked(running, make_predictor, open_page, images):
    with running(make_predictor()) as client:
        page = open_page(client)
        page.set_input_files("#files", images["ask"])
        page.locator("#decision").get_by_text("Ask a person").wait_for()
        assert page.locator("#ask").is_hidden()


def test_the_page_speaks_the_language_of_the_browser_and_the_other_one(running, make_predictor, open_page, images):
    with running(make_predictor()) as client:
        page = open_page(client, locale="zh-CN")
        page.set_input_files("#files", images["reject"])
        page.locator("#decision").get_by_text("不合格").wait_for()
        assert page.locator("#class").inner_text().split() == ["起坑", "pit"]
        assert page.locator("html").get_attribute("lang") == "zh-CN"
        page.locator("#language").click()
        assert page.locator("#decision").inner_text() == "Reject"
        page.reload()
        page.locator("#drop").get_by_text("Drop images here").wait_for()


def test_a_token_is_asked_for_and_kept_while_the_page_is_open(running, make_predictor, open_page, images):
    with running(make_predictor(), token=TOKEN) as client:
        page = open_page(client)
        page.locator("#token").fill("wrong")
        page.locator("#login button").click()
        page.locator("#message").get_by_text("The token is wrong").wait_for()
        page.locator("#token").fill(TOKEN)
        page.locator("#login button").click()
        page.locator("#drop").wait_for()
        page.reload()
        page.locator("#drop").wait_for()
        page.set_input_files("#files", images["pass"])
        page.locator("#decision").get_by_text("Pass").wait_for()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
def test_everything_fits_into_the_width(running, make_predictor, open_page, images, viewport):
    with running(make_predictor()) as client:
        page = open_page(client, viewport=viewport, has_touch=viewport is PHONE)
        page.set_input_files("#files", list(images.values()))
        page.locator("#counts").get_by_text("Error 2").wait_for()
        for place in ("header", "#drop", "#result", "#batch", "#rows tr:last-child"):
            box = page.locator(place).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= viewport["width"]
        assert page.locator(".camera").is_visible() == (viewport is PHONE)


def test_a_full_server_is_asked_again(running, make_predictor, open_page, images):
    with running(make_predictor(), queue=1, timeout=2) as client:
        page = open_page(client)
        page.locator("#drop").wait_for()
        with client.begin(1000, b"x"):  # takes the only place for two seconds
            page.set_input_files("#files", images["pass"])
            page.locator("#decision").get_by_text("Pass").wait_for()
