"""Judge a trained run: `python -m alu_defects.evaluate run=runs/<run> split=test`."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from alu_defects.command_line import verb
from alu_defects.config import absolute_paths, plain


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Run a run's best checkpoint over val and the split that is asked for, and report everything about it.

    What is chosen (temperature, threshold, whom to ask) is chosen on val, and the temperature is kept with the run.

    Args:
        config: conf/evaluate.yaml, composed.

    Returns:
        What metrics.json holds: under the name of the split loss, accuracy, macro precision, recall and F1, and
        precision and recall of each class; `intervals`, `calibration`, and `operating` if there is a normal class.

    Raises:
        UserError: no such run, split or class, no checkpoint, an option out of range, pictures that are missing or
            others than those of the run, a network whose training has diverged.
    """
    import torch

    from alu_defects.atomic import write_json
    from alu_defects.data import catalog, splits
    from alu_defects.data.datamodule import DefectData
    from alu_defects.learning import checkpoint, threads, trainer
    from alu_defects.learning.run import Run
    from alu_defects.reporting import evaluation, evaluation_report, judgement, report
    from alu_defects.reporting.judgement import Judged, Judgement

    config = absolute_paths(config)
    splits.check_held_out(config.split.name)
    threads.check(config.trainer.threads)
    load = threads.Load()
    operating = plain(config.operating)
    judgement.check(operating)
    run = Run.existing(config.run)
    options = plain(run.config())
    here = {key: config.data[key] for key in ("cache", "cache_dir")}  # the run's may be of another machine
    here["bits"] = run.status()["bits"]  # auto would look at a part of the run's pictures
    here["on_broken"] = "error"  # what was left out is not in the catalogue of the run
    data = DefectData(**{**options["data"], **here}, split={}, seed=options["seed"])
    root = catalog.existing_root(config.data.root) if config.data.root else run.data_root()
    table = run.catalog()
    table = table[splits.rows(table, "val") | splits.rows(table, config.split.name)]
    catalog.verify(root, table)
    data.use(root, table)
    checkpoint.check_classes(run.best, data.classes)
    normal = judgement.normal_class(operating["normal"], data.classes)
    classifier, computing = checkpoint.load(run.best), trainer.as_before(plain(config.trainer), run.status())
    with threads.restored():
        torch.set_num_threads(threads.choose(config.trainer.threads, load))
        results = {
            split: evaluation.evaluate(classifier, data, split, computing)
            for split in dict.fromkeys(("val", config.split.name))
        }
    for result in results.values():
        result.check_numbers()
    calibrated = judgement.calibrate(results["val"])
    write_json(run.folder / "calibration.json", calibrated.as_dict())
    judged = {
        split: Judged(result, data.scan()["session"].iloc[result.rows].tolist(), calibrated, normal)
        for split, result in results.items()
    }
    outcome = Judgement(judged["val"], judged[config.split.name], calibrated, operating, normal)
    result = results[config.split.name]
    metrics = {config.split.name: result.metrics, "note": evaluation.join_notes(results.values()), **outcome.as_dict()}
    output = Path(config.output)
    evaluation.write(result, output, metrics)
    report.print_run(output, metrics, result)
    title = f"{options['model']['name']} on {config.split.name}: {run.folder.resolve().name}"
    for text in judgement.sentences(outcome):
        print(text)
    print(f"report: {evaluation_report.write(outcome, data, output, title)}")
    return metrics


@verb("evaluate")
def main(config: DictConfig) -> None:
    """Judge the run that the command line names."""
    evaluate(config)


if __name__ == "__main__":
    main()
