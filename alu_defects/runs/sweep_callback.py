"""What Hydra calls at the start and the end of a sweep; every verb loads it, so it imports nothing large by itself."""

import math
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from alu_defects.config import plain
from alu_defects.errors import UserError
from alu_defects.io import claim_folder
from alu_defects.overrides import quote


class SweepCallback(Callback):
    """What belongs to a sweep as a whole: its folder, jobs that fail, and the report at its end.

    It needs nothing but run.json of each job, so that the jobs may run in any process. `compare` is
    `alu_defects.compare.compare`, or None for jobs that are not to be compared.
    """

    running: ClassVar["SweepCallback | None"] = None  # of this process

    def __init__(self, compare: Callable[[list[Path], Path, Any], Any] | None = None) -> None:
        self.compare = compare
        self.folder = Path()
        self.operating: Any = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim a folder that no other sweep has, also if both start in the same second, unless the user named it."""
        if OmegaConf.is_interpolation(config.hydra.sweep, "dir"):
            folder = str(claim_folder(Path(config.hydra.sweep.dir).expanduser()))
            config.hydra.sweep.dir = folder
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quote(folder)}")  # for the jobs
        self.folder = Path(config.hydra.sweep.dir)
        self.operating = plain(config.get("operating"))
        SweepCallback.running = self

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Record that a job failed, in the process that ran it, and let the other jobs continue."""
        folder = Path(config.hydra.runtime.output_dir)
        if config.hydra.mode == RunMode.MULTIRUN and job_return.status is JobStatus.FAILED:
            error = job_return._return_value  # its property raises it
            from alu_defects.runs.run import Run

            Run.failed(folder, config, list(config.hydra.overrides.task), error)
            job_return.status, job_return.return_value = JobStatus.COMPLETED, math.nan  # of a sweeper's objective
        if folder != Path.cwd():  # Hydra made it; a job of a verb without a run folder leaves it empty
            with suppress(OSError):
                folder.rmdir()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report, and end with exit code 1 if a job has not finished; Hydra would turn an exception into a warning."""
        try:
            code = 0 if self.report() else 1
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
        except Exception:
            traceback.print_exc()
            code = 1
        if code:
            sys.exit(code)

    def report(self) -> bool:
        """Print which jobs failed and compare the others; whether all have finished."""
        SweepCallback.running = None
        if not any(self.folder.glob("*/run.json")):
            return True
        from alu_defects.runs.jobs import find_jobs

        failed = [job for job in find_jobs([self.folder]) if job.status != "finished" or job.error]
        if failed:
            lines = (f"  {' '.join(job.overrides)}: {job.error or job.status}" for job in failed)
            print("failed jobs:", *lines, sep="\n", file=sys.stderr)
        if self.compare:
            self.compare([self.folder], self.folder / "comparison", self.operating)
        return not failed


def report_running() -> None:
    """Report a sweep that ends before its time, such as by Ctrl-C."""
    if sweep := SweepCallback.running:
        sweep.report()
