"""New labelled images → what a trained run is evaluated on: its classes, decoded as its own images."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alu_defects.config import compose, plain
from alu_defects.data import catalog, grouping, splits
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError, counted
from alu_defects.evaluation.predictions import Evaluation
from alu_defects.runs.jobs import read_predictions
from alu_defects.runs.run import Run
from alu_defects.training.checkpoint import read_checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewImages:
    """Images that a run did not have, under the split name `splits.NEW`."""

    data: DefectData  # prepared; its catalog has those of the run's classes
    unknown: dict[str, int]  # images of classes that the run does not know: they are not counted
    missing: list[str]  # classes of the run without an image
    notes: tuple[str, ...]  # what a reader of the numbers must know

    @property
    def name(self) -> str:
        """Of the folder of the evaluation: another one for other images."""
        folder = re.sub(r"[^\w.-]+", "-", self.data.root.name)
        return f"{splits.NEW}_{folder}_{self.data_hash[:8]}"

    @property
    def data_hash(self) -> str:
        """Of the images that are evaluated."""
        return catalog.data_hash(self.data.catalog)

    def complete(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation with the notes, and without the numbers of classes that have no images."""
        there = {name: row for name, row in evaluation.metrics["per_class"].items() if name not in self.missing}
        metrics = evaluation.metrics | {"per_class": there}
        return replace(evaluation, metrics=metrics, notes=(*evaluation.notes, *self.notes))


def find_new_images(run: Run, given: Mapping[str, Any], settings: Mapping[str, Any]) -> NewImages:
    """List and decode the labelled images below a root.

    Args:
        run: a trained one.
        given: `root` of the images, `table` of their labels and its `encoding`, and the `source`, how they are read;
            None: as those of the run.
        settings: of `DefectData`, in place of those of the run.

    Raises:
        UserError: no image of these classes, or images that cannot be read.
    """
    classes = list(read_checkpoint(run.best)["hyper_parameters"]["classes"])
    data = DefectData(**_data_options(plain(run.config().data), given) | dict(settings), split={})
    table = data.catalog
    labelled, known = table["label"] != "", table["label"].isin(classes)
    counts = table.loc[labelled & ~known, "label"].value_counts()
    unknown = {str(name): int(number) for name, number in counts.items()}
    if not known.any():
        found = f"images of {', '.join(unknown)}" if unknown else "no image with one class"
        raise UserError(
            f"data.root={data.root} holds {found}, and none of the classes of the run: {', '.join(classes)}. Name the "
            "class folders as the run does; data=<source> says how they are read"
        )
    own = table[known].assign(split=splits.NEW)
    own["session"] = _find_groups(data, own, run.config().split.get("gap", 60))
    data.set_catalog(data.root, own, classes)
    data.prepare_data()
    if not len(data.catalog):
        detail = data.excluded["path"].iloc[0] if len(data.excluded) else ""
        raise UserError(f"data.root={data.root}: no labelled image can be decoded, such as {detail}; replace them")
    missing = [name for name in classes if name not in set(data.catalog["label"])]
    notes = list(_notes(data, unknown, missing, unlabelled=int((~labelled).sum())))
    trained = run.catalog()
    warnings = list(_seen_before(data, trained.loc[splits.in_split(trained, "train"), "sha256"]))
    for text in notes:
        log.warning("%s", text)
    for text in warnings:
        log.warning("THE SCORES ARE TOO GOOD: %s", text)
    return NewImages(data, unknown, missing, (*warnings, *notes))


def _find_groups(data: DefectData, table: pd.DataFrame, gap: float) -> NDArray[np.object_]:
    """The groups of new images, as those of the run; where they lack its column, or other paths: auto."""
    try:
        return grouping.find_groups(table, data.group, gap, data.find_similar)
    except UserError as error:
        log.warning("the new images are grouped by data.group=auto: %s", error)
        return grouping.find_groups(table, "auto", gap, data.find_similar)


def _data_options(trained: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a source, those of the run where it has them."""
    source = given["source"] or ("table" if given["table"] else trained["source"])
    if source == "table" and not given["table"]:
        raise UserError(
            "the labels of new images are in a table, as those of the run: give it as data.table=<csv>, or their class "
            "folders with data=folder data.root=<dir>"
        )
    generated = source == "synthetic"  # images in the layout of the archives, which nobody corrects
    source = {"synthetic": "tianchi", "surfaces": "folder"}.get(source, source)
    own = plain(compose("train", [f"data={source}"]).data)
    found = {key: trained.get(key, value) for key, value in own.items()} | {"source": source, "root": given["root"]}
    if source == "table":
        found |= {"table": given["table"], "encoding": given["encoding"]}
    return found | ({"corrections": False} if generated else {})


def _notes(data: DefectData, unknown: Mapping[str, int], missing: Sequence[str], unlabelled: int) -> list[str]:
    notes = []
    if missing:
        there = len(data.classes) - len(missing)
        notes.append(
            f"no images of {', '.join(missing)}: macro averages are over {there} of {len(data.classes)} classes"
        )
    if unknown:
        listed = ", ".join(f"{name} ({number})" for name, number in unknown.items())
        near = sorted({own for own in data.classes for name in unknown if own.casefold() == name.strip().casefold()})
        number, hint = counted(sum(unknown.values()), "image"), f"; the run calls it {', '.join(near)}" if near else ""
        notes.append(f"not counted: {number} whose class the run does not know: {listed}{hint}")
    if unlabelled:
        notes.append(f"not counted: {counted(unlabelled, 'image')} without a class, or with several")
    return notes


def _seen_before(data: DefectData, trained: "pd.Series[str]") -> list[str]:
    """What new images have in common with the training images of the run."""
    copies = data.catalog["sha256"].isin(trained).to_numpy()
    notes = []
    if copies.any():
        notes.append(f"{copies.sum()} of {len(copies)} images have the content of a training image of the run")
    looked = data.find_near_duplicates_of(trained.tolist())
    if looked is None or looked[1] < len(trained):
        among = f"{0 if looked is None else looked[1]} of {len(trained)}"
        log.warning("near-duplicates were looked for among %s training images: those in the pixel cache", among)
    if looked is not None and (alike := looked[0] & ~copies).any():
        notes.append(f"{alike.sum()} of {len(copies)} images look like a training image of the run")
    return notes


def read_val(run: Run) -> tuple[Evaluation, list[str]]:
    """The evaluation on val that a run has written, without its rows, and the sessions of the images.

    The images themselves need not be there.
    """
    folder = run.evaluation("val")
    if not (folder / "predictions.csv").is_file():
        raise UserError(
            f"there is no {folder / 'predictions.csv'}: finish the training, let alu-evaluate run={run.folder} "
            "split=val write it, or give operating.choose_on=new"
        )
    table, catalog = read_predictions(folder), run.catalog()
    if len(table) < (number := int(splits.in_split(catalog, "val").sum())):
        raise UserError(
            f"{folder / 'predictions.csv'} holds {len(table)} of the {number} images of val: a part was evaluated; "
            f"let alu-evaluate run={run.folder} split=val write all, or give operating.choose_on=new"
        )
    metrics, of_path = run.metrics(), catalog.set_index("path")["session"]
    notes = [note for note in [metrics.get("note"), *run.status().get("split_notes", ())] if note]
    evaluation = Evaluation("val", metrics.get("val", {}), table, pd.DataFrame(), [], notes=tuple(notes))
    return evaluation, table["path"].map(of_path).tolist()
