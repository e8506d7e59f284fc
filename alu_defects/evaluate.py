"""Evaluate a trained run: `python -m alu_defects.evaluate run=runs/<run> split=test`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from alu_defects.cli import verb
from alu_defects.config import absolute_paths, check_settings, plain
from alu_defects.errors import UserError


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Run a run's best checkpoint over val and the split that is asked for, and report everything about it.

    Temperature, threshold and the confidences of selective prediction are chosen on val; the first two replace
    operating.json of the run. With `tta=flip` predictions, and so all of these, are means over an image and its flips.

    Returns:
        What metrics.json holds: under the name of the split loss, accuracy, macro precision, recall and F1, and
        precision and recall of each class; `intervals`, `calibration`, and `operating` if there is a threshold.

    Raises:
        UserError: no such run, split or class, no checkpoint, an option out of range, images that are missing or
            others than those of the run, a network whose training has diverged, flips that it was not trained with.
    """
    import torch

    from alu_defects.data import catalog, splits
    from alu_defects.data.datamodule import DefectData
    from alu_defects.evaluation import predictions
    from alu_defects.evaluation.assessment import Assessment, CalibratedPredictions
    from alu_defects.evaluation.operating import OperatingPoint, check_normal, fill_options
    from alu_defects.reports import evaluation_report, terminal
    from alu_defects.runs.run import Run
    from alu_defects.runs.starting_weights import describe
    from alu_defects.training import checkpoint, threads, trainer

    check_settings(config := absolute_paths(config))
    splits.check_held_out(config.split.name)
    threads.check_threads(config.trainer.threads)
    load = threads.OtherLoad()
    run = Run.existing(config.run)
    options = plain(run.config())
    operating = fill_options(plain(config.operating), options["operating"])
    here = {key: config.data[key] for key in ("cache", "cache_dir")}  # the run's may be of another machine
    here["bits"] = run.status()["bits"]  # auto would look at a part of the run's images
    here["on_broken"] = "error"  # what was excluded is not in the catalog of the run
    data = DefectData(**{**options["data"], **here}, split={}, seed=options["seed"])
    root = run.data_root(plain(config.data.root))
    table = run.catalog()
    check_normal(operating["normal"], sorted(set(table["label"])))
    table = table[splits.in_split(table, "val") | splits.in_split(table, config.split.name)]
    catalog.verify_files(root, table)
    data.set_catalog(root, table, notes=run.status().get("split_notes", ()))
    checkpoint.check_classes(run.best, data.classes)
    classifier = checkpoint.load_classifier(run.best)
    classifier.tta = _flips(config.tta, options["augment"])
    computing = trainer.repeat_precision(plain(config.trainer), run.status())
    split = config.split.name
    with threads.restore_threads():
        torch.set_num_threads(threads.choose_threads(config.trainer.threads, load))
        results = {
            name: predictions.evaluate(classifier, data, name, computing) for name in dict.fromkeys(("val", split))
        }
    for result in results.values():
        result.check_numbers()
    sessions = {name: data.catalog["session"].iloc[result.rows].tolist() for name, result in results.items()}
    point = OperatingPoint.choose(results["val"].predictions, sessions["val"], operating, classifier.tta)
    assert point is not None  # the numbers were checked
    point.save(run.operating_file)
    images = {name: CalibratedPredictions(result, sessions[name], point) for name, result in results.items()}
    assessment = Assessment(images["val"], images[split], point, operating["reject"], operating["target_accuracy"])
    result, output = results[split], Path(config.output)
    metrics = {split: result.metrics, "note": predictions.join_notes(results.values()), **assessment.as_dict()}
    evaluation_report.write_evaluation(result, output, metrics)
    terminal.print_run(output, metrics, result, weights := describe(run.status()["weights"]))
    for text in evaluation_report.operating_sentences(assessment):
        print(text)
    title = f"{options['model']['name']} on {split}: {run.folder.resolve().name}"
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


@verb("evaluate")
def main(config: DictConfig) -> None:
    """Evaluate the run that the command line names."""
    evaluate(config)


if __name__ == "__main__":
    main()
