"""Hydra's launcher for `sweep.jobs`; Hydra finds launchers in this package alone, and imports them every time."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, setup_globals
from omegaconf import open_dict

from alu_defects.config import ALLOWED


class JobsLauncher(BasicLauncher):
    """Runs the jobs of a sweep on this machine.

    Args:
        jobs: how many at once, or `auto`, see `count_jobs_that_fit`. One at once runs in this process.
    """

    def __init__(self, jobs: int | str = "auto") -> None:
        super().__init__()
        self.jobs = jobs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs."""
        ALLOWED["sweep.jobs"].check("sweep.jobs", self.jobs)  # each job checks the other settings
        if self.jobs == 1 or len(job_overrides) == 1:
            return super().launch(job_overrides, initial_job_idx)
        from alu_defects.runs import parallel

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        setup_globals()
        configs = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            configs.append(config)
        at_once = self.jobs if isinstance(self.jobs, int) else parallel.count_jobs_that_fit(configs)
        if at_once == 1:
            return super().launch(job_overrides, initial_job_idx)
        print(f"{len(configs)} jobs, {at_once} at once with one thread each; what each prints is in its train.log")
        return parallel.run_in_processes(self.hydra_context, self.task_function, configs, at_once)
