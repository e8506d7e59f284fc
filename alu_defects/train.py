"""Train a classifier: `python -m alu_defects.train model=inceptionv4_scse`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from alu_defects.command_line import verb
from alu_defects.config import backbone_options, plain

if TYPE_CHECKING:  # torch and lightning take seconds to import: --help and --cfg must not wait for them
    from alu_defects.data.datamodule import DefectData
    from alu_defects.learning.callbacks import Startup
    from alu_defects.learning.run import Run

log = logging.getLogger(__name__)


def train(config: DictConfig) -> dict[str, Any]:
    """Train, keep the best epoch, evaluate it on val and test, and write the run folder.

    Args:
        config: conf/train.yaml, composed; `run_dir` becomes the run folder, or `resume` is one that goes on.

    Returns:
        What metrics.json holds: `best_epoch`, `epochs`, `parameters`, `seconds`, `note` on the split, and for `val` and
        `test` loss, accuracy, macro precision, recall and F1, and precision and recall of each class.

    Raises:
        UserError: a setting, a file or a folder that the user can mend. The run is then marked failed in run.json.
    """
    from alu_defects.learning import sweeps
    from alu_defects.learning.run import Run

    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    if config.resume:
        run, config = Run.resume(config.resume, overrides)
        run.update(fingerprint=None)  # perhaps with other settings of the trainer, or other code, than it began with
    else:
        run = Run.create(Path(config.run_dir), config, overrides)
        run.update(fingerprint=sweeps.fingerprint(config))
    with run.recorded():
        return _train(config, run)


def _train(config: DictConfig, run: "Run") -> dict[str, Any]:
    import time

    started = time.perf_counter()
    from lightning.pytorch import seed_everything
    from lightning.pytorch.loggers import TensorBoardLogger

    from alu_defects.learning import checkpoint, trainer
    from alu_defects.learning.callbacks import Startup
    from alu_defects.learning.history import History
    from alu_defects.learning.module import Classifier
    from alu_defects.models.backbone import multiply_adds
    from alu_defects.reporting import dashboard, evaluation, figures, report

    startup = Startup(run, since=started)
    startup.lap("imports")
    options = plain(config)
    before = run.status()  # of a run that goes on: how it computes is part of it
    options["trainer"] = trainer.as_before(options["trainer"], before)
    trainer.check(options["trainer"], options.get("callbacks") or {})
    seed_everything(config.seed, workers=True, verbose=False)
    data = _data(options)
    _prepare(data, run, startup)
    resumed_from = run.last if run.last.exists() else None
    model = backbone_options(options["model"])
    if resumed_from:
        checkpoint.check_classes(resumed_from, data.classes)
        model |= checkpoint.WEIGHTS_INSIDE
    classifier = Classifier(
        model=model,
        classes=data.classes,
        class_counts=data.class_counts(),
        image_size=data.image_size,
        loss=options["loss"],
        optimizer=options["optimizer"],
        scheduler=options["scheduler"],
        compile=trainer.compiles(options.get("compile", False), options["trainer"]),  # older runs have no such word
    )
    tensorboard = TensorBoardLogger(run.tensorboard, name="", version="", default_hp_metric=False)
    history = History(run.history_file)
    fit = trainer.create(options["trainer"], options["callbacks"], [tensorboard, history], classifier.backbone)
    if options["trainer"]["accumulate_grad_batches"] == "auto":
        trainer.fit_batch(fit, classifier, data, before.get("accumulate_grad_batches"))
    macs = multiply_adds(classifier.backbone, data.image_size)
    startup.lap("network")
    fit.callbacks.append(startup)  # type: ignore[attr-defined]
    name, device = options["model"]["name"], str(fit.strategy.root_device)
    run.update(device=device, precision=fit.precision, accumulate_grad_batches=fit.accumulate_grad_batches)
    log.info("%s on %s in %s, into %s", name, device, fit.precision, run.folder)
    started = time.perf_counter()
    fit.fit(classifier, datamodule=data, ckpt_path=resumed_from, weights_only=True)
    seconds = time.perf_counter() - started

    table = History(run.history_file).table()
    best = checkpoint.load(run.best)
    evaluations = [evaluation.evaluate(best, data, split, options["trainer"]) for split in ("val", "test")]
    best_epoch = int(checkpoint.read(run.best)["epoch"])
    results = {
        "best_epoch": best_epoch,
        "epochs": len(table),
        "parameters": sum(p.numel() for p in classifier.backbone.parameters()),
        "multiply_adds": macs,
        "seconds": round(seconds, 1),
        "note": evaluations[-1].note,
        **{e.split: e.metrics for e in evaluations},
    }
    evaluation.write(evaluations[0], run.evaluation("val"), {"val": evaluations[0].metrics})
    evaluation.write(evaluations[-1], run.folder, results)
    figures.curves(table, monitor=str(config.callbacks.best.monitor)).savefig(run.folder / "curves.png", dpi=150)
    dashboard.add_outcome(tensorboard, config, evaluations, data, step=best_epoch)
    report.print_run(run.folder, results, evaluations[-1])
    return results


def _data(options: dict[str, Any]) -> "DefectData":
    from alu_defects.data.datamodule import DefectData

    return DefectData(**options["data"], split=options["split"], augment=options["augment"], seed=options["seed"])


def _prepare(data: "DefectData", run: "Run", startup: "Startup") -> None:
    """Catalogue and decode the pictures; print and record what there is, and what the split gives away."""
    from dataclasses import asdict

    from alu_defects.data import leakage
    from alu_defects.data.catalog import save
    from alu_defects.reporting import report

    run.take_catalog(data.scan(), data.root)
    if data.found is not None and len(data.found.left_out):
        save(data.found.left_out, run.left_out_file)
    if len(data.unused):
        save(data.unused, run.unused_file)
    report.print_data(data)
    startup.lap("catalogue")
    data.setup("fit")
    startup.lap("pixels")
    near_duplicates = data.near_duplicates()
    found = leakage.probe(data.scan(), near_duplicates)
    run.update(leakage=asdict(found) if found else {"near_duplicates": near_duplicates})
    report.print_leakage(found, near_duplicates)
    startup.lap("leakage")


def _finished_before(config: DictConfig) -> bool:
    """Whether a job of a sweep has finished in this or another sweep; its folder then says where."""
    from alu_defects.learning import sweeps

    run = sweeps.finished(config, _data(plain(config)))
    if run:
        print(f"finished before, not run again (sweep.force=true would): {run.folder}")
        sweeps.reuse(Path(config.run_dir), run, list(HydraConfig.get().overrides.task))
    return run is not None


def _failed(folder: Path, config: DictConfig, error: Exception) -> None:
    from alu_defects.learning.run import Run

    Run.failed(folder, config, list(HydraConfig.get().overrides.task), error)


def _after_sweep(folder: Path) -> None:
    from alu_defects.compare import compare

    compare([folder], folder / "comparison")


@verb("train", after_sweep=_after_sweep, failed=_failed)
def main(config: DictConfig) -> None:
    """Train in the folder that Hydra made, which in a sweep is inside the sweep's."""
    config.run_dir = HydraConfig.get().runtime.output_dir
    if HydraConfig.get().mode != RunMode.MULTIRUN or config.sweep.force or not _finished_before(config):
        train(config)


if __name__ == "__main__":
    main()
