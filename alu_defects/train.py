"""Train a classifier: `python -m alu_defects.train model=inceptionv4_scse`."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from alu_defects.cli import verb
from alu_defects.config import absolute_paths, backbone_options, check_settings, find_class, plain
from alu_defects.errors import UserError

if TYPE_CHECKING:  # torch and lightning take seconds to import: --help and --cfg must not wait for them
    from alu_defects.data.datamodule import DefectData
    from alu_defects.runs.run import Run
    from alu_defects.training.callbacks import StartupTimer
    from alu_defects.training.module import Classifier


log = logging.getLogger(__name__)


def train(config: DictConfig) -> dict[str, Any]:
    """Train, keep the best epoch, evaluate it on val and test, and write the run folder.

    Args:
        config: conf/train.yaml, composed; `run_dir` becomes the run folder, or `resume` is one that continues.

    Returns:
        What metrics.json holds: `best_epoch`, `epochs`, `parameters`, `seconds`, `note` on the split, and for `val` and
        `test` loss, accuracy, macro precision, recall and F1, and precision and recall of each class.

    Raises:
        UserError: what the user can fix. The run is then marked failed in run.json.
    """
    import time

    started = time.perf_counter()
    from alu_defects.models.registry import check_backbone
    from alu_defects.runs import identity, starting_weights
    from alu_defects.runs.run import Run
    from alu_defects.training.threads import restore_threads

    if config.resume == "":  # of an empty shell variable
        raise UserError("resume= is empty; give a run folder, or auto")
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    named_by_time = OmegaConf.is_interpolation(config, "run_dir")  # other runs may have started in the same second
    config = absolute_paths(config)  # a run is resumed from anywhere
    weights: dict[str, Any] = {}
    if config.resume in (None, "auto"):
        check_settings(config)
        unfinished = _find_unfinished(config)
        if unfinished:
            config.resume, overrides = str(unfinished.folder), []
        else:
            config.resume = None
            config, weights = starting_weights.choose(config)
    if config.resume:
        run, config = Run.resume(config.resume, overrides)
        before, digests = run.status(), identity.run_identity(config)
        # with other code, another device or other options of the trainer, no sweep may take it for one of its own
        same = {key: value if before.get(key) == value else None for key, value in digests.items()}
        changed = identity.identity_settings(config) != identity.identity_settings(run.config())
        run.update(**same | {"settings": None if changed else before.get("settings")})
    else:
        known = None if config.data.image_size == "auto" else config.data.image_size
        check_backbone(**backbone_options(plain(config.model)), image_size=known)
        entries = {"weights": weights, **identity.run_identity(config)}
        run = Run.create(Path(config.run_dir), config, overrides, claim=named_by_time, **entries)
    with run.recorded(), restore_threads():
        return _train(config, run, started)


def _train(config: DictConfig, run: "Run", started: float) -> dict[str, Any]:
    from lightning.pytorch import seed_everything

    from alu_defects.evaluation.operating import check_normal
    from alu_defects.models.backbone import multiply_adds
    from alu_defects.training import accumulation, checkpoint, trainer
    from alu_defects.training.callbacks import EpochSeed, StartupTimer
    from alu_defects.training.history import History
    from alu_defects.training.threads import Threads

    startup = StartupTimer(run.update, since=started)
    startup.end_stage("imports")
    options, recorded = plain(config), run.status()  # a resumed run repeats what is recorded
    threads = Threads(config.trainer.threads, run.update, recorded.get("threads", ()))
    options["trainer"] = trainer.repeat_precision(options["trainer"], recorded)
    trainer.check_trainer(options["trainer"], options.get("callbacks") or {}, options["on_nonfinite"])
    _check_options(options)
    seed_everything(config.seed, workers=True, verbose=False)
    options["data"] |= {key: recorded[key] for key in ("bits", "image_size") if key in recorded}
    data = _data(options)
    _prepare(data, run, startup)
    check_normal(options["operating"]["normal"], data.classes)
    last: dict[str, Any] = {}
    if run.last.exists():
        checkpoint.check_classes(run.last, data.classes)
        last = checkpoint.read_checkpoint(run.last)
        data.first_epoch = int(last["epoch"]) + 1
    classifier = _classifier(options, data, resumes=bool(last))
    if not last:
        _say_weights(run, classifier.backbone.loaded, finetuning="finetuning" in options["callbacks"])
    loggers = trainer.create_loggers(options.get("logger") or {}, run.folder, data.first_epoch)
    history = History(run.history_file)
    history.complete(data.first_epoch - 1, last.get("logged", {}), loggers)
    loggers.append(history)
    fit = trainer.create_trainer(options["trainer"], options["callbacks"], loggers, classifier.backbone, run.folder)
    if options["trainer"]["accumulate_grad_batches"] == "auto":
        accumulation.accumulate_to_fit(fit, classifier, data, recorded.get("accumulate_grad_batches"))
    if options["trainer"]["max_epochs"] == "auto" and last:
        fit.fit_loop.max_epochs = recorded["max_epochs"]  # the schedule was laid out for them
    elif options["trainer"]["max_epochs"] == "auto":
        trainer.set_epochs(fit, sum(data.class_counts()), data.batch_size, options["model"]["steps"])
    macs = multiply_adds(classifier.backbone, data.image_size)
    startup.end_stage("network")
    about = {name: run.status()[name] for name in ("bits", "packages", "data_hash")}
    classifier.about = checkpoint.describe_model(classifier, data.resize, **about)
    fit.callbacks += [startup, EpochSeed(config.seed), threads]  # type: ignore[attr-defined]
    device = str(fit.strategy.root_device)
    run.update(device=device, **{k: getattr(fit, k) for k in ("precision", "accumulate_grad_batches", "max_epochs")})
    log.info("%s on %s in %s, into %s", options["model"]["name"], device, fit.precision, run.folder)
    _fit(fit, classifier, data, run, config.trainer.accumulate_grad_batches == "auto")
    parameters = sum(p.numel() for p in classifier.backbone.parameters())
    return _outcome(config, run, data, {"parameters": parameters, "multiply_adds": macs})


def _say_weights(run: "Run", loaded: str, finetuning: bool) -> None:
    """Log and record what the network starts from, and why that is less than `model.pretrained=auto` asks for."""
    from alu_defects.runs import starting_weights

    weights = run.status()["weights"]
    if reason := weights.get("reason"):
        log.warning("%s", reason)
    log.info("Starting weights: %s%s", starting_weights.describe(weights), f"; {loaded}" if loaded else "")
    run.update(weights=weights | {"loaded": loaded})
    if finetuning and weights["source"] == "none":
        log.warning(
            "callbacks.finetuning trains the classifier of a network that has learnt nothing yet: give "
            "model.weights=<file or run>, or train it as a whole with experiment=photographs"
        )


def _classifier(options: Mapping[str, Any], data: "DefectData", *, resumes: bool) -> "Classifier":
    """The network with its loss and optimizer; that of a run that resumes gets its weights later."""
    from alu_defects.runs import identity
    from alu_defects.training import checkpoint, trainer
    from alu_defects.training.module import Classifier

    model = backbone_options(options["model"])
    if resumes:
        model |= checkpoint.WEIGHTS_INSIDE
    elif model.get("weights"):
        model["weights"] = str(identity.weights_file(model["weights"]))
    return Classifier(
        model=model,
        classes=data.classes,
        class_counts=data.class_counts(),
        image_size=data.image_size,
        compile=trainer.should_compile(options["compile"], options["trainer"]),
        **{name: options[name] for name in ("loss", "optimizer", "scheduler", "on_nonfinite", "max_nonfinite")},
    )


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse a wrong class, and options that exclude each other, before images are read."""
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from alu_defects.training.losses import CrossEntropy

    for group, kind in (("optimizer", Optimizer), ("scheduler", LRScheduler), ("loss", CrossEntropy)):
        find_class(kind, options[group])
    if options["data"]["sampler"] == options["loss"].get("class_weights") == "balanced":
        raise UserError(
            "data.sampler=balanced with loss.class_weights=balanced counts rare classes twice; take one of them"
        )


def _fit(fit: Any, classifier: Any, data: "DefectData", run: "Run", cuts: bool) -> None:
    """Train; if a GPU has too little memory, say what helps: a run that cuts its batches resumes with more parts."""
    from alu_defects.training import trainer

    try:
        trainer.fit(fit, classifier, data, run.last if run.last.exists() else None)
    except trainer.GpuMemoryError as error:
        hint = "start again with a lower data.batch_size or data.image_size"
        if cuts and data.batch_size > 2:  # batch normalisation needs two
            parts = 2 * fit.accumulate_grad_batches
            run.update(accumulate_grad_batches=parts)
            hint = f"resume={run.folder} continues with each batch cut into {parts} parts"
        raise UserError(f"{error}; {hint}") from error


def _outcome(config: DictConfig, run: "Run", data: "DefectData", network: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the best epoch of a finished training, and write the results."""
    from alu_defects.evaluation import predictions
    from alu_defects.evaluation.operating import ChosenOn, OperatingPoint
    from alu_defects.reports import evaluation_report, plots, tensorboard, terminal
    from alu_defects.runs import starting_weights
    from alu_defects.training import checkpoint, trainer
    from alu_defects.training.history import History

    table = History(run.history_file).table()
    best = checkpoint.load_classifier(run.best)
    checkpoint.save_weights(best, run.weights)
    options = trainer.repeat_precision(plain(config.trainer), run.status())
    evaluations = [predictions.evaluate(best, data, split, options) for split in ("val", "test")]
    best_epoch = int(checkpoint.read_checkpoint(run.best)["epoch"])
    results = {
        "best_epoch": best_epoch,
        "epochs": len(table),
        **network,
        "seconds": round(float(table.filter(["train/seconds"]).to_numpy().sum()), 1),
        "note": predictions.join_notes(evaluations),
        **{e.split: e.metrics for e in evaluations},
    }
    val, test = evaluations
    evaluation_report.write_evaluation(val, run.evaluation("val"), {"val": val.metrics, "note": val.note})
    evaluation_report.write_evaluation(test, run.folder, results)
    sessions = data.catalog["session"].iloc[val.rows].tolist()
    status = run.status()
    chosen_on = ChosenOn("val", status["data_root"], status["data_hash"], len(sessions))
    if point := OperatingPoint.choose(val.predictions, sessions, plain(config.operating), chosen_on):
        point.save(run.operating_file)
    plots.plot_curves(table, monitor=str(config.callbacks.best.monitor)).savefig(run.folder / "curves.png", dpi=150)
    if run.tensorboard.is_dir():
        tensorboard.add_outcome(run.tensorboard, config, evaluations, data, step=best_epoch)
    terminal.print_run(run.folder, results, test, starting_weights.describe(run.status()["weights"]))
    return results


def _data(options: dict[str, Any]) -> "DefectData":
    from alu_defects.data.datamodule import DefectData

    return DefectData(**options["data"], split=options["split"], augment=options["augment"], seed=options["seed"])


def _prepare(data: "DefectData", run: "Run", startup: "StartupTimer") -> None:
    """List, split and decode the images; print and record what there is, and what the split gives away."""
    from dataclasses import asdict

    from alu_defects.data import grouping, leakage, splits
    from alu_defects.data.catalog import save_catalog
    from alu_defects.reports import terminal
    from alu_defects.runs import starting_weights

    terminal.print_data(data)
    startup.end_stage("catalog")
    data.prepare_data()
    run.take_catalog(data.catalog, data.root)
    run.update(bits=data.bits, image_size=data.image_size, split=splits.resolve(data.split["name"], data.catalog))
    if len(data.excluded):
        save_catalog(data.excluded, run.excluded_file)
    startup.end_stage("pixels")
    alike, found = data.find_near_duplicates(), leakage.time_only_baseline(data.catalog)
    if note := starting_weights.trained_before(run.status().get("weights", {}), data.catalog):
        log.warning("%s", note)
        data.notes += (note,)
    run.update(
        groups=grouping.describe(data.catalog, data.group),
        leakage=asdict(found) if found else {},
        near_duplicates=asdict(alike) if alike else None,
        split_notes=data.notes,
    )
    terminal.print_leakage(found, alike)
    startup.end_stage("leakage")


def _find_unfinished(config: DictConfig) -> "Run | None":
    """With resume=auto the run that continues."""
    from alu_defects.runs import starting_weights, sweep

    if config.resume != "auto":
        return None
    found = (sweep.find_unfinished(possible) for possible in starting_weights.possible_choices(config))
    return next((run for run in found if run), None)


def _find_finished(config: DictConfig) -> "Run | None":
    """The run of this or another sweep that a job need not repeat; the job's folder then points to it.

    It also points to a run that continues elsewhere because of resume=auto.
    """
    from alu_defects.runs import starting_weights, sweep

    unfinished = _find_unfinished(config)
    if config.model.pretrained == "auto":
        config, _ = starting_weights.choose(config)
    finished = sweep.find_finished(config, _data(plain(config)))
    if finished:
        print(f"finished before, not run again (sweep.force=true would): {finished.folder}")
    elsewhere = finished or unfinished
    if elsewhere:
        sweep.point_to_run(Path(config.run_dir), elsewhere, list(HydraConfig.get().overrides.task))
    if finished and finished.folder != Path(config.run_dir):
        _choose_operating_point(config)
    return finished


def _choose_operating_point(config: DictConfig) -> None:
    """Write operating.json for a job that points to a run: the options of the operating point may be others."""
    from alu_defects.evaluation.operating import ChosenOn, OperatingPoint
    from alu_defects.runs.jobs import find_jobs
    from alu_defects.runs.run import Run

    folder = Path(config.run_dir)
    job = find_jobs([folder])[0]
    val, status = job.predictions("val"), job.run.status()
    if val is None:
        return
    chosen_on = ChosenOn("val", status["data_root"], status["data_hash"], len(val))
    if point := OperatingPoint.choose(val, val["session"].tolist(), plain(config.operating), chosen_on):
        point.save(Run(folder).operating_file)


def monitored_value(monitor: str, results: Mapping[str, Any]) -> float:
    """The value on val of what selects the best epoch, such as val/f1 or val/recall/pit, in the results of a run."""
    _, name, *label = monitor.split("/", 2)
    val = results["val"]
    return float(val["per_class"][label[0]][name] if label else val[name])


@verb("train")
def main(config: DictConfig) -> float:
    """Train, in a sweep in the folder that Hydra made for the job; returns the objective of a Hydra sweeper."""
    finished = None
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        config.run_dir = HydraConfig.get().runtime.output_dir
        config = absolute_paths(config)
        if config.sweep.force:
            config.resume = None  # auto, which would find what is to be run again
        else:
            finished = _find_finished(config)
    results = finished.metrics() if finished else train(config)
    return monitored_value(str(config.callbacks.best.monitor), results)


if __name__ == "__main__":
    main()
