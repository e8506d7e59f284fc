"""The weights that a run starts from: chosen once, recorded in run.json, and said in every report."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from alu_defects import io
from alu_defects.config import plain
from alu_defects.errors import UserError
from alu_defects.runs.identity import published_weights, weights_file
from alu_defects.runs.run import Run

Record = dict[str, Any]  # the entry `weights` of run.json

# `source` of a record → what is said of it
_SAID = {
    "cache": "published: {name}, from the cache",
    "download": "published: {name}, downloaded",
    "package": "{name}, shipped with alu_defects",
    "backbone": "published: what {name} loads by itself",
    "run": "of a run: {name}",
    "file": "of a file: {name}",
    "none": "none, trained from scratch",
}


def choose(config: DictConfig) -> tuple[DictConfig, Record]:
    """Choose the weights that a new run starts from; all jobs of a sweep take what the first one chose.

    Returns:
        The configuration, with true, surfaces or false in the place of `model.pretrained=auto`; and for run.json the
        `source` (a key of `_SAID`), `name`, `url`, `licence`, `file` and `sha256`, as far as there are any, and the
        `reason` why auto took no published weights.

    Raises:
        UserError: `model.pretrained=true` or `surfaces` cannot be had, or `model.weights` is not there, or a folder
            without a run.
    """
    model = plain(config.model)
    asked, record = model["pretrained"], {"source": "none"}
    if model["weights"]:
        record = _of_file(_existing(weights_file(model["weights"]), Path(config.paths.runs)))
    elif asked == "auto":
        with _remembered() as known:
            published = published_weights(model)
            name = published.name or published.network  # one network may have several weights
            record = known[name] = known.get(name) or _first_available(model, known)
    elif asked:
        record = _published(model) if asked is True else _shipped(model)
    if asked == "auto":
        config = copy.deepcopy(config)
        config.model.pretrained = {"cache": True, "download": True, "package": "surfaces"}.get(record["source"], False)
    return config, record


def possible_choices(config: DictConfig) -> Iterator[DictConfig]:
    """The configurations that `choose` may have made of this one, when there was a network or none."""
    if config.model.pretrained != "auto":
        yield config
        return
    from alu_defects.models.pretrained import SHIPPED, SURFACES

    shipped = published_weights(plain(config.model)).network in SHIPPED
    for value in (True, *([SURFACES] if shipped else []), False):
        possible = copy.deepcopy(config)
        possible.model.pretrained = value
        yield possible


def describe(record: Mapping[str, Any]) -> str:
    """The weights that a run started from, in half a sentence with their licence."""
    said, licence = _SAID[record["source"]].format_map(record), record.get("licence")
    if not licence and record["source"] in ("none", "run"):  # a run without one was trained from scratch
        return said
    return f"{said}; licence: {licence or 'not stated'}"


def trained_before(record: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Say how many held-out images of a split catalog the run that the weights come from has trained on; "" for none.

    That run may itself have started from another one.
    """
    trained, seen = set[str](), set[Path]()
    while record.get("source") == "run" and (folder := Path(record["file"]).parent.parent) not in seen:
        seen.add(folder)
        run = Run(folder)
        if run.catalog_file.is_file():
            own = run.catalog()
            trained |= set(own.loc[own["split"] == "train", "sha256"])
        record = run.status().get("weights", {})
    held_out = table.loc[table["split"] != "train", "sha256"]
    if not (number := int(held_out.isin(trained).sum())):
        return ""
    return (
        f"{number} of {len(held_out)} val and test images were training images of the run that the weights come from: "
        "scores are too good. Take the split of that run: split=file split.file=<its catalog.csv>"
    )


def _published(model: Mapping[str, Any], download: bool = True) -> Record:
    from alu_defects.models.pretrained import fetch

    published = published_weights(model)
    if model["pretrained"] is True and not published.exists:
        return {"source": "backbone", "name": published.network}  # of another package; or creating it is an error
    file, source = fetch(published, download)
    about = {"name": published.name, "url": published.address, "licence": published.licence}
    return {"source": source, **about, **_content(file)}


def _shipped(model: Mapping[str, Any]) -> Record:
    from alu_defects.models.pretrained import SHIPPED, SURFACES, shipped_file

    network = published_weights(model).network
    file = shipped_file(network)
    return {"source": "package", "name": SURFACES, "licence": SHIPPED[network].licence, **_content(file)}


def _first_available(model: Mapping[str, Any], known: Mapping[str, Record]) -> Record:
    """What auto means: published weights in the cache, else downloaded, else of this package, else none.

    Where another job of the sweep got no answer, none is waited for again.
    """
    from alu_defects.models.pretrained import SHIPPED, NoAnswerError

    try:
        return _published(model, download=not any(record.get("no_answer") for record in known.values()))
    except UserError as error:
        record = _shipped(model) if published_weights(model).network in SHIPPED else {"source": "none"}
        return {**record, "reason": str(error), "no_answer": isinstance(error, NoAnswerError)}


def _of_file(file: Path) -> Record:
    run = Run(file.parent.parent)
    if not run.status_file.is_file():
        return {"source": "file", "name": str(file), **_content(file)}
    before = run.status().get("weights", {})
    licence = before.get("licence")  # it follows what was trained from them
    if not licence and before.get("source") not in ("none", "run"):
        licence = "not stated"
    return {"source": "run", "name": run.folder.name, "licence": licence, **_content(file)}


def _existing(file: Path, runs: Path) -> Path:
    """The file of `model.weights`, before images are read for nothing; a `UserError` if it is not there."""
    if file.is_file():
        return file
    fix = "give a file (.safetensors, .pth, .pt, .ckpt) or the folder of a run"
    if Run(runs / file.name).status_file.is_file():
        fix = f"did you mean model.weights={runs / file.name}?"
    raise UserError(f"model.weights={file}: there is no such file; {fix}")


def _content(file: Path) -> Record:
    with file.open("rb") as content:
        return {"file": str(file), "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


@contextmanager
def _remembered() -> Iterator[dict[str, Record]]:
    """What the jobs of this sweep have chosen: weights → record. One job at a time; outside a sweep nothing is kept."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        yield {}
        return
    path = Path(HydraConfig.get().sweep.dir) / "pretrained.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with io.exclusive_lock(path, "looking for pretrained weights"):
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        yield known
        io.write_json(path, known)
