"""Predictions as a table on the disk: rows are kept as they come, so that a stopped job continues."""

import csv
import hashlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import track

from alu_defects.deployment.map_files import MapFolder
from alu_defects.deployment.predictor import Prediction, Predictor
from alu_defects.deployment.source import File
from alu_defects.errors import UserError, check_choice, counted, name_disk_errors
from alu_defects.io import atomic_write, exclusive_lock

FORMATS = ("csv", "jsonl", "parquet")
STANDARD_OUTPUT = "-"
UNFINISHED_SUFFIX = ".unfinished"  # of the file beside the output: what it is of, then a row a line as JSON
_CONTINUES = "then the same command continues"  # what to do about a full disk
Row = dict[str, Any]


def as_row(prediction: Prediction, top_k: int | None = None) -> Row:
    """One prediction as a row: path, label, confidence, decision, p_<class>, status, error.

    `top_k` keeps so many of the largest probabilities, the largest first.
    """
    if prediction.decision is None:
        return {"path": prediction.path, "status": "error", "error": prediction.error}
    label, confidence, action, probabilities = prediction.decision
    if top_k is not None:
        largest = sorted(probabilities, key=lambda name: -probabilities[name])[:top_k]
        probabilities = {name: probabilities[name] for name in largest}
    own = {f"p_{name}": value for name, value in probabilities.items()}
    row = {"path": prediction.path, "label": label, "confidence": confidence, "decision": str(action)}
    return row | own | {"status": "ok", "error": ""}


def columns_of(classes: Iterable[str]) -> list[str]:
    """The columns of a table that has the probabilities of all classes."""
    return ["path", "label", "confidence", "decision", *(f"p_{name}" for name in classes), "status", "error"]


def csv_line(values: Iterable[Any]) -> str:
    """Values as a line of CSV."""
    csv.writer(line := io.StringIO()).writerow(values)  # its \r\n makes it quote names with \r, too
    return line.getvalue().removesuffix("\r\n") + "\n"


def write_predictions(
    predictor: Predictor,
    files: Sequence[File],
    output: str,
    form: str | None = None,
    *,
    batch_size: int = 16,
    top_k: int | None = None,
    save_maps: str | None = None,
    progress: bool = True,
) -> Counter[str]:
    """Decide on files and write a table; one that was begun with the same network is finished.

    Args:
        predictor: decides.
        files: paths, or open files.
        output: where the table is written when it is complete; `-`: to the standard output, row by row.
        form: of `FORMATS`; None: as the output ends, else csv.
        batch_size: images that the network sees at once.
        top_k: how many probabilities a row has; None: all.
        save_maps: a folder for the class-activation map of each label over its image, which the column map then names.
        progress: show a progress bar on the standard error.

    Returns:
        How many images got which decision; `error` for those that could not be decoded.

    Raises:
        UserError: an output that exists or cannot be written, or was begun with another network; or maps that this
            one does not have.
    """
    suffix = Path(output).suffix.removeprefix(".").lower()
    form = form or (suffix if suffix in FORMATS else "csv")
    check_choice("format", form, FORMATS)
    if form == "parquet":
        _check_parquet(output)
    if save_maps is not None:
        predictor.check_maps()
    todo: Sequence[File] = files

    def rows() -> Iterator[Row]:
        maps = None if save_maps is None else MapFolder(save_maps, digest(predictor))
        found = predictor.predict(todo, batch_size=batch_size, with_heat=maps is not None)
        console = Console(stderr=True)
        for one in track(found, "predicting", total=len(todo), disable=not progress, console=console):
            row = as_row(one, top_k)
            yield row if maps is None or one.heat is None else row | {"map": maps.save(one.path, one.heat)}

    columns = columns_of(predictor.bundle.classes) + (["map"] if save_maps is not None else [])
    if output == STANDARD_OUTPUT:
        counts = Counter[str]()
        with name_disk_errors("output=-"), _row_writer(sys.stdout.buffer, form, columns) as write:
            for row in rows():
                counts[row.get("decision", "error")] += 1
                write(row)
        return counts
    path = _output_file(output)
    unfinished = path.with_name(path.name + UNFINISHED_SUFFIX)
    with name_disk_errors(f"output={path}", _CONTINUES), exclusive_lock(unfinished, f"writing {path.name}"):
        _check_new(path)  # again: another process may have written it meanwhile
        identity = {"predictions_of": digest(predictor), "top_k": top_k}
        identity |= {} if save_maps is None else {"save_maps": save_maps}
        done = _read_done(unfinished, identity)
        if not all(isinstance(file, str) for file in files):  # an image without a name may be another one
            done.clear()
        if done:
            _check_named(unfinished, done, files)
            todo = list(_without(files, done))
            print(f"continues: {counted(done.total(), 'image')} done before", file=sys.stderr)
        with unfinished.open("a", encoding="utf-8") as kept:
            if not done:
                kept.truncate(0)
                print(json.dumps(identity), file=kept)
            for row in rows():
                print(json.dumps(row), file=kept, flush=True)
        counts = Counter(row.get("decision", "error") for row in _read_rows(unfinished))
        with atomic_write(path) as file:
            _write_table(file, form, columns, unfinished)
        unfinished.unlink()
        with suppress(PermissionError):  # of Windows: it is in use. Later, another process may hold it
            unfinished.with_name(unfinished.name + ".lock").unlink(missing_ok=True)
    return counts


def _output_file(output: str) -> Path:
    path = Path(os.path.expanduser(output)).absolute()  # noqa: PTH111 (which leaves ~ before an unknown name)
    if os.path.isdir(path):  # noqa: PTH112 (Path raises for names that are too long)
        raise UserError(f"output={output} is a folder; give a file, as in output=predictions.csv")
    _check_new(path)
    if not os.path.isdir(path.parent):  # noqa: PTH112
        raise UserError(f"output={path}: there is no folder {path.parent}; make it first")
    return path


def _write_table(file: BinaryIO, form: str, columns: Sequence[str], unfinished: Path) -> None:
    if form == "parquet":
        import pandas as pd

        pd.DataFrame(list(_read_rows(unfinished)), columns=list(columns)).to_parquet(file)
        return
    with _row_writer(file, form, columns) as write:
        for row in _read_rows(unfinished):
            write(row)


def _check_named(unfinished: Path, done: Counter[str], files: Iterable[File]) -> None:
    """Raise a `UserError` if an unfinished table has rows of files that are not asked for."""
    if strange := done - Counter(file for file in files if isinstance(file, str)):
        raise UserError(
            f"{unfinished} has rows of {counted(strange.total(), 'image')} that the source does not name, such as "
            f"{next(iter(strange))}; give the source that it was begun with, remove it, or give another output"
        )


def _without(files: Iterable[File], done: Counter[str]) -> Iterator[File]:
    left = done.copy()
    for file in files:
        if isinstance(file, str) and left[file]:
            left[file] -= 1
        else:
            yield file


def digest(predictor: Predictor) -> str:
    """A hash of the network and of what it decides by."""
    with predictor.source.open("rb") as file:
        network = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps([network, predictor.bundle.as_dict()]).encode()).hexdigest()


def _read_done(unfinished: Path, identity: Mapping[str, Any]) -> Counter[str]:
    """The paths in an unfinished table, which loses what a killed process left of its last line."""
    if not unfinished.is_file():
        return Counter()
    with unfinished.open("rb+") as file:
        first = file.readline()
        if not json.dumps(identity).encode().startswith(first.rstrip(b"\r\n")):  # a killed process may leave a part
            raise UserError(
                f"{unfinished} was begun with another network, threshold, top_k or save_maps; remove it, or give "
                "another output"
            )
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    try:
        return Counter(row["path"] for row in _read_rows(unfinished))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{unfinished} is damaged ({error}); remove it, or give another output") from error


def _check_new(path: Path) -> None:
    if os.path.lexists(path):
        raise UserError(f"output={path} exists; give another output, or remove it")


def _read_rows(unfinished: Path) -> Iterator[Row]:
    with unfinished.open(encoding="utf-8") as file:
        next(file, None)  # what it is of
        for line in file:
            yield json.loads(line)


@contextmanager
def _row_writer(file: BinaryIO, form: str, columns: Sequence[str]) -> Iterator[Callable[[Row], None]]:
    """A function that writes a row, csv or jsonl; paths that are not UTF-8 keep their bytes, in JSON as its escapes."""
    errors = "surrogateescape" if form == "csv" else "backslashreplace"
    text = io.TextIOWrapper(file, encoding="utf-8", errors=errors, newline="", write_through=True)
    if form == "csv":
        text.write(csv_line(columns))

    def write(row: Row) -> None:
        if form == "csv":
            text.write(csv_line(row.get(name) for name in columns))
        else:
            text.write(json.dumps(row, ensure_ascii=False) + "\n")

    try:
        yield write
    finally:
        text.detach()  # the file stays open


def _check_parquet(output: str) -> None:
    if output == STANDARD_OUTPUT:
        raise UserError(
            "format=parquet cannot be written row by row to the standard output; give output=<file>.parquet"
        )
    if find_spec("pyarrow") is None:
        raise UserError("format=parquet needs pyarrow: pip install pyarrow; or give format=csv")
