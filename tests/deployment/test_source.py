"""Which images a source names."""

import io
from pathlib import Path

import pytest
from PIL import Image

from alu_defects.deployment.source import list_source
from alu_defects.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a [1].PNG", "deep/er/c.tif", "notes.txt", ".hidden.jpg", "deep/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(source: object, folder: Path, **options) -> list[str]:
    return [str(Path(str(name)).relative_to(folder)) for name in list_source(str(source), **options)]


def test_a_folder_means_its_images_and_with_recursive_those_in_its_folders(folder):
    assert names(folder, folder) == ["a [1].PNG", "b.jpg", "deep/er/c.tif"]
    assert names(folder, folder, recursive=False) == ["a [1].PNG", "b.jpg"]


def test_a_file_is_taken_whatever_its_name(folder):
    assert names(folder / "notes.txt", folder) == ["notes.txt"]
    assert names(folder / "a [1].PNG", folder) == ["a [1].PNG"]  # no pattern


def test_a_pattern_means_the_files_of_that_name(folder):
    assert names(folder / "*.jpg", folder) == ["b.jpg"]
    assert names(folder / "**" / "*.tif", folder) == ["deep/er/c.tif"]


def test_paths_begin_as_the_source_does(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert list_source("deep") == ["deep/er/c.tif"]
    assert list_source("*.jpg") == ["b.jpg"]


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"a.jpg\nb c.jpg\r\n\n", ["a.jpg", "b c.jpg"]), (b"a\nb.jpg\0c.jpg\0", ["a\nb.jpg", "c.jpg"])],
)
def test_the_standard_input_holds_paths(content, found):
    assert list_source("-", standard_input=io.BytesIO(content)) == found


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_the_standard_input_holds_an_image(form):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, form)
    (file,) = list_source("-", standard_input=io.BytesIO(buffer.getvalue()))
    assert Image.open(file).size == (4, 4)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "source=.*nowhere is not there"),
        ("*.bmp", "no file has such a name"),
        ("deep/er/empty", "holds no images"),
    ],
)
def test_a_source_without_images_is_refused(folder, source, message):
    (folder / "deep" / "er" / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        list_source(str(folder / source))


def test_an_empty_standard_input_is_refused():
    with pytest.raises(UserError, match="the standard input is empty"):
        list_source("-", standard_input=io.BytesIO(b"\n"))


@pytest.mark.parametrize("content", [b"BMW/a.jpg\n", b"RIFF/a.jpg\n", b"\xef\xbb\xbfBM.jpg\n"])
def test_paths_may_begin_as_images_do(content):
    assert list_source("-", standard_input=io.BytesIO(content)) == [content.decode("utf-8-sig").strip()]


def test_before_a_nul_every_byte_is_of_the_name():
    assert list_source("-", standard_input=io.BytesIO(b"a\r\0 \0c\n\0")) == ["a\r", " ", "c\n"]


def test_paths_in_utf16_are_refused():
    with pytest.raises(UserError, match="UTF-16"):
        list_source("-", standard_input=io.BytesIO("a.jpg\r\n".encode("utf-16")))


def test_a_pattern_takes_links_to_nowhere(folder):
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    assert names(folder / "*.jpg", folder) == ["b.jpg", "gone.jpg"]


@pytest.mark.parametrize("source", ["", "~nobody_of_this_name/a.jpg", "x" * 300])
def test_sources_that_cannot_be_are_refused(source):
    with pytest.raises(UserError, match=r"source="):
        list_source(source)
