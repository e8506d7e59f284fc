"""Evaluate a trained run: `python -m alu_defects.evaluate run=runs/<run> split=test`."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from alu_defects.command_line import verb
from alu_defects.config import plain


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Recompute the metrics of a run's best checkpoint and write them with the predictions.

    Args:
        config: conf/evaluate.yaml, composed.

    Returns:
        What metrics.json holds: under the name of the split loss, accuracy, macro precision, recall and F1, and
        precision and recall of each class.

    Raises:
        UserError: no such run or split, no checkpoint, pictures that are missing or others than those of the run.
    """
    from alu_defects.data import catalog, splits
    from alu_defects.data.datamodule import DefectData
    from alu_defects.learning import checkpoint
    from alu_defects.learning.run import Run
    from alu_defects.reporting import evaluation, report

    splits.check_held_out(config.split.name)
    run = Run.existing(config.run)
    options = plain(run.config())
    here = {key: config.data[key] for key in ("cache", "cache_dir")}  # the run's may be of another machine
    data = DefectData(**{**options["data"], **here}, split=options["split"], seed=options["seed"])
    root = catalog.existing_root(config.data.root) if config.data.root else run.data_root()
    table = run.catalog()
    table = table[splits.rows(table, config.split.name)]
    catalog.verify(root, table)
    data.use(root, table)
    checkpoint.check_classes(run.best, data.classes)
    result = evaluation.evaluate(checkpoint.load(run.best), data, config.split.name, plain(config.trainer))
    metrics = {config.split.name: result.metrics, "note": result.note}
    output = Path(config.output)
    evaluation.write(result, output, metrics)
    report.print_run(output, metrics, result)
    return metrics


@verb("evaluate", shorthands={"split": "split.name={}"})
def main(config: DictConfig) -> None:
    """Evaluate the run that the command line names."""
    evaluate(config)


if __name__ == "__main__":
    main()
