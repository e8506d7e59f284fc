"""Jobs of a sweep at the same time, each in a process of its own with one thread."""

import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import cloudpickle
import joblib
import pandas as pd
import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from alu_defects.config import check_settings, read_size
from alu_defects.data.decode import AUTO_PIXELS
from alu_defects.errors import UserError
from alu_defects.runs.run import Run
from alu_defects.signals import GRACE, interrupting

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Bytes that a job needs in all, and for each pixel of a batch. The largest network, Inception V4-scSE, took 1.9 GB with
# AdamW at 112×112 pixels and batches of 16 images.
BASE_MEMORY, PIXEL_MEMORY = 2 * 2**30, 2500


def run_in_processes(
    context: HydraContext, task: TaskFunction, configs: Sequence[DictConfig], at_once: int
) -> list[JobReturn]:
    """Run jobs of Hydra, and show a line of progress for each; what one prints is in its train.log.

    A job whose process is killed fails alone. A signal to this process ends those of the jobs in order.
    """
    name, outcome = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[outcome]}", markup=False)
    columns = (name, BarColumn(20), TextColumn("epoch"), MofNCompleteColumn(), outcome, TimeElapsedColumn())
    waiting, running, results = list(enumerate(configs)), list[_Job](), dict[int, JobReturn]()
    with Progress(*columns) as progress, env_override(ONE_THREAD):
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    number, config = waiting.pop(0)
                    work = cloudpickle.dumps((context, task, config, Singleton.get_state()))
                    running.append(_Job.start(number, config, work, progress))
                ended = wait([job.connection for job in running], timeout=1)
                for job in running:
                    job.show(progress)
                for job in [job for job in running if job.connection in ended]:
                    results[job.number] = job.end(progress)
                    running.remove(job)
        finally:  # also by a signal: they end in order, with the time to write what they have
            for job in running:
                job.process.terminate()
            deadline = time.monotonic() + GRACE
            for job in running:
                job.process.join(max(0.0, deadline - time.monotonic()))
                if job.process.is_alive():  # Python loses a signal that arrives while it collects garbage, for one
                    job.process.kill()
                    Run(job.folder).update(status="interrupted")
    return [results[number] for number in sorted(results)]


def count_jobs_that_fit(configs: Sequence[DictConfig]) -> int:
    """How many jobs to run at once: 1 on a GPU or if each starts several processes, else as cores and memory allow."""
    from alu_defects.training.trainer import device_type

    if any(c.trainer.strategy != "auto" or device_type(c.trainer.accelerator) != "cpu" for c in configs):
        return 1
    largest = max((_batch_pixels(config) for config in configs), default=0)
    memory = psutil.virtual_memory().available // (BASE_MEMORY + PIXEL_MEMORY * largest)
    return max(1, min(int(joblib.cpu_count()), int(memory), len(configs)))


def _batch_pixels(config: DictConfig) -> int:
    try:
        check_settings(config)
    except UserError:  # its job refuses it
        return 0
    size = config.data.image_size
    return int(config.data.batch_size) * (AUTO_PIXELS if size == "auto" else math.prod(read_size(size)))


@dataclass
class _Job:
    """A job that runs in a process of its own."""

    number: int
    config: DictConfig
    folder: Path
    process: SpawnProcess
    connection: Connection
    line: TaskID

    @classmethod
    def start(cls, number: int, config: DictConfig, work: bytes, progress: Progress) -> "_Job":
        HydraConfig.instance().set_config(config)  # for ${hydra:…}
        folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
        folder.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(work, str(folder / "train.log"), sender))
        process.start()
        sender.close()  # the process has its own: the connection ends with it
        line = progress.add_task(folder.name, total=None, outcome="")
        return cls(number, config, folder, process, receiver, line)

    def end(self, progress: Progress) -> JobReturn:
        """What Hydra gets of the job; that its process was killed is recorded here."""
        overrides = list(self.config.hydra.overrides.task)
        result = JobReturn(overrides=overrides, cfg=self.config, status=JobStatus.COMPLETED)
        try:
            result.return_value = self.connection.recv()
        except EOFError:
            result.return_value = math.nan
            self.process.join()
            error = UserError(
                f"its process ended with exit code {self.process.exitcode}; if the machine has too little memory, "
                "sweep.jobs=1 helps"
            )
            Run.failed(self.folder, self.config, overrides, error)
        self.process.join()
        self.show(progress)
        run = Run(self.folder)
        status = Run(run.folder / run.status().get("run", ".")).status()["status"]
        progress.update(self.line, outcome=f"{progress.tasks[self.line].fields['outcome']} {status}".strip())
        progress.stop_task(self.line)
        return result

    def show(self, progress: Progress) -> None:
        """Show how far the job is: as far as its metrics.csv."""
        monitor = str(OmegaConf.select(self.config, "callbacks.best.monitor"))
        with suppress(OSError, ValueError, KeyError, UserError):  # it has not begun
            run = Run.existing(self.folder)
            progress.update(self.line, total=run.status().get("max_epochs"))
            scores = pd.read_csv(run.history_file)[monitor].dropna()
            progress.update(self.line, completed=len(scores), outcome=f"{monitor} {scores.iloc[-1]:.3f}")


def _work(work: bytes, log_file: str, connection: Connection) -> None:
    """Run a job in a process of its own; what it prints goes into a file."""
    with Path(log_file).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    threading.Thread(target=_end_with_parent, daemon=True).start()

    with interrupting():
        setup_globals()
        hydra_context, task_function, config, state = pickle.loads(work)
        Singleton.set_state(state)
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        logging.getLogger().handlers.clear()  # the run itself logs into this file
        value = run_job(
            hydra_context=hydra_context,
            task_function=task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            configure_logging=False,
        ).return_value
    connection.send(value)


def _end_with_parent() -> None:
    """End as by SIGTERM when the process that started this one has gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
