"""Evaluate a run: `python -m alu_defects.evaluate run=runs/<run> split=test`; data.root=<folder>: on new images."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from alu_defects.cli import verb
from alu_defects.config import absolute_paths, check_settings, plain
from alu_defects.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import: --help and --cfg must not wait for it
    from alu_defects.data.datamodule import DefectData
    from alu_defects.evaluation.assessment import Assessment
    from alu_defects.evaluation.new_images import NewImages
    from alu_defects.runs.run import Run


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Run a run's best checkpoint over images, and report everything about it.

    These are val and the split that is asked for; or, where `data.root` holds none of the images of the run, the new
    labelled images there, under the split name `new`. Temperature, threshold and the confidences of selective
    prediction are chosen on val, or on the new images (`operating.choose_on`); the first two replace operating.json of
    the run. With `tta=flip` predictions, and so all of these, are means over an image and its flips.

    Returns:
        What metrics.json holds: under the name of the split loss, accuracy, macro precision, recall and F1, and
        precision and recall of each class; `intervals`, `calibration`, and `operating` if there is a threshold.

    Raises:
        UserError: no such run, split or class, no checkpoint, an option out of range, images that are missing or
            others than those of the run, a network whose training has diverged, flips that it was not trained with.
    """
    from alu_defects.data import splits
    from alu_defects.deployment.predictor import exported_files
    from alu_defects.evaluation import predictions
    from alu_defects.evaluation.operating import check_normal, fill_options
    from alu_defects.reports import evaluation_report, terminal
    from alu_defects.runs.run import Run
    from alu_defects.runs.starting_weights import describe
    from alu_defects.training import threads

    check_settings(config := absolute_paths(config))
    splits.check_held_out(config.split.name)
    threads.check_threads(config.trainer.threads)
    run = Run.existing(config.run)
    if config.update_exports and not exported_files(run.exports):
        raise UserError(f"update_exports=true: there is no exported file in {run.exports}; export first")
    options = plain(run.config())
    operating = fill_options(plain(config.operating), options["operating"])
    check_normal(operating["normal"], sorted(set(run.catalog()["label"])))
    data, new = _find_images(config, run)
    if new and config.tta != "none" and operating["choose_on"] == "val":
        raise UserError(f"tta={config.tta}: the run predicted val without it; give operating.choose_on=new, too")
    split = splits.NEW if new else config.split.name
    assessment = _assess(config, run, data, new, operating)
    result = assessment.evaluated.evaluation
    note = predictions.join_notes([assessment.chooser.evaluation, result])
    metrics = {split: result.metrics, "note": note, **assessment.as_dict()}
    if new:
        about = {"root": str(data.root), "data_hash": new.data_hash, "images": len(data.catalog)}
        metrics["new_images"] = {**about, "missing_classes": new.missing, "unknown_classes": new.unknown}
    name = (new.name if new else split) + ("" if config.tta == "none" else f"_{config.tta}")
    output = Path(config.output) if config.output else run.evaluation(name)
    evaluation_report.write_evaluation(result, output, metrics)
    terminal.print_run(output, metrics, result, weights := describe(run.status()["weights"]))
    for text in evaluation_report.operating_sentences(assessment):
        print(text)
    if config.update_exports:
        _update_exports(run, data, new is not None, operating["choose_on"])
    title = f"{options['model']['name']} on {data.root if new else split}: {run.folder.resolve().name}"
    print(f"report: {evaluation_report.write_evaluation_report(assessment, data, output, title, weights)}")
    return metrics


def _flips(tta: str, augment: Mapping[str, Any] | None) -> list[str]:
    """The flips of the test-time augmentation: those that the run was trained with."""
    from alu_defects.data.augment import FLIPS

    flips = [name for name in FLIPS if (augment or {}).get(name)] if tta == "flip" else []
    if tta == "flip" and not flips:
        settings = " and ".join(f"augment.{name}" for name in FLIPS)
        raise UserError(f"tta=flip: the run was trained without flips ({settings} are false); give tta=none")
    return flips


def _find_images(config: DictConfig, run: "Run") -> "tuple[DefectData, NewImages | None]":
    """The val and test images of the run, or new ones where data.root holds those."""
    from alu_defects.data import catalog, splits
    from alu_defects.data.datamodule import DefectData
    from alu_defects.evaluation import new_images
    from alu_defects.training import checkpoint

    given, options, table = config.data, plain(run.config()), run.catalog()
    if given.source and not (given.root or given.table):
        raise UserError(f"data.source={given.source} says how new images are read; give their folder as data.root=…")
    # what the run says of them may be of another machine; auto would look at a part of its images
    here = {key: given[key] for key in ("cache", "cache_dir", "remember_hashes")}
    here |= {key: run.status()[key] for key in ("bits", "image_size")}
    if not given.source and not given.table:
        root = run.moved_root(plain(given.root)) if given.root else run.data_root()
        # what was excluded is not in the catalog of the run
        data = DefectData(**{**options["data"], **here, "on_broken": "error"}, split={}, seed=options["seed"])
        table = table[splits.in_split(table, "val") | splits.in_split(table, config.split.name)]
        with data.remember_hashes():
            found = catalog.compare_files(root, table)
        # other images under all of its names may be its own, changed: then that must be said
        if not given.root or found.unchanged or not found.missing:
            if config.operating.choose_on == splits.NEW:
                raise UserError(f"operating.choose_on=new: {root} holds images of the run; give others as data.root=…")
            instead = "data=<source> evaluates all labelled images in it as new ones"
            catalog.verify_files(root, found, instead)
            data.set_catalog(root, table, notes=run.status().get("split_notes", ()))
            checkpoint.check_classes(run.best, data.classes)
            return data, None
    described = {key: plain(given[key]) for key in ("root", "source", "table", "encoding")}
    new = new_images.find_new_images(run, described, {**here, "on_broken": given.on_broken})
    print(f"{len(new.data.catalog)} labelled images in {new.data.root} are evaluated as new ones")
    return new.data, new


def _assess(
    config: DictConfig, run: "Run", data: "DefectData", new: "NewImages | None", operating: Mapping[str, Any]
) -> "Assessment":
    """Evaluate, and replace operating.json of the run."""
    import torch

    from alu_defects.data import catalog, splits
    from alu_defects.evaluation import new_images, predictions
    from alu_defects.evaluation.assessment import Assessment, CalibratedPredictions
    from alu_defects.evaluation.operating import ChosenOn, OperatingPoint
    from alu_defects.training import checkpoint, threads, trainer

    load, status, chooser = threads.OtherLoad(), run.status(), operating["choose_on"]
    split = splits.NEW if new else config.split.name
    classifier = checkpoint.load_classifier(run.best)
    classifier.tta = _flips(config.tta, plain(run.config())["augment"])
    computing = trainer.repeat_precision(plain(config.trainer), status)
    with threads.restore_threads():
        torch.set_num_threads(threads.choose_threads(config.trainer.threads, load))
        names = (split,) if new else dict.fromkeys(("val", split))
        results = {name: predictions.evaluate(classifier, data, name, computing) for name in names}
    for result in results.values():
        result.check_numbers()
    sessions = {name: data.catalog["session"].iloc[result.rows].tolist() for name, result in results.items()}
    if new:
        results[split] = new.complete(results[split])
        if chooser == "val":
            results["val"], sessions["val"] = new_images.read_val(run)
    on_new = chooser == splits.NEW
    root = str(data.root) if on_new else status["data_root"]
    digest = catalog.data_hash(data.catalog) if on_new else status["data_hash"]
    chosen_on = ChosenOn(chooser, root, digest, len(sessions[chooser]))
    point = OperatingPoint.choose(results[chooser].predictions, sessions[chooser], operating, chosen_on, classifier.tta)
    assert point is not None  # the numbers were checked
    point.replace_in(run.operating_file)
    images = {name: CalibratedPredictions(result, sessions[name], point) for name, result in results.items()}
    return Assessment(images[chooser], images[split], point, operating["reject"], operating["target_accuracy"])


def _update_exports(run: "Run", data: "DefectData", is_new: bool, chooser: str) -> None:
    """Give the exported files of the run its new operating point; they are compared on the images that chose it."""
    from alu_defects.data import catalog, splits
    from alu_defects.deployment import exporting
    from alu_defects.deployment.predictor import Predictor

    if chooser == splits.NEW:
        root, table = data.root, data.catalog
    else:
        root, table = run.data_root() if is_new else data.root, run.catalog()
        table = table[splits.in_split(table, chooser)]
    images = list(zip(catalog.file_paths(root, table["path"]), table["label"], strict=True))
    predictor = Predictor.load(run.folder, device="cpu", max_pixels=run.config().data.max_pixels)
    found = exporting.update(predictor, images, run.exports)
    for one in found:
        if not one.refusal:
            print(f"{run.exports / one.name}: decides by this temperature and threshold now")
    if refusals := [one.refusal for one in found if one.refusal]:
        raise UserError("\n".join(refusals))


@verb("evaluate")
def main(config: DictConfig) -> None:
    """Evaluate the run that the command line names."""
    evaluate(config)


if __name__ == "__main__":
    main()
