"""A run is one folder: its files, what made it, and how it went."""

import errno
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from alu_defects import io
from alu_defects.config import absolute_paths, check_settings, conf_dir
from alu_defects.data.catalog import (
    Root,
    compare_files,
    data_hash,
    existing_root,
    file_paths,
    folders_of,
    load_catalog,
    save_catalog,
    verify_files,
)
from alu_defects.data.splits import in_split
from alu_defects.errors import UserError
from alu_defects.overrides import setting_of
from alu_defects.runs import resume

PACKAGES = ("alu-defects", "torch", "torchvision", "lightning", "timm", "torchmetrics", "hydra-core", "numpy", "pillow")
LOCK_SECONDS = 8.0  # worker processes outlive one that was killed by 5
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # in which torchrun and SLURM number the processes of a job
DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger(__name__)


class Run:
    """The names of the files in a run folder, and the status in run.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_file = folder / "config.yaml"
        self.status_file = folder / "run.json"
        self.catalog_file = folder / "catalog.csv"
        self.excluded_file = folder / "excluded.csv"
        self.metrics_file = folder / "metrics.json"
        self.operating_file = folder / "operating.json"
        self.exports = folder / "export"
        self.log_file = folder / "train.log"
        self.history_file = folder / "metrics.csv"
        self.checkpoints = folder / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"
        self.weights = self.checkpoints / "model.safetensors"  # of best.ckpt
        self.tensorboard = folder / "tensorboard"
        self._lock_file = folder / "run.lock"

    def evaluation(self, split: str) -> Path:
        """The folder of an evaluation on val, test, or new images under their name."""
        return self.folder / "evaluation" / split

    @classmethod
    def existing(cls, folder: str | Path) -> "Run":
        """The run in a folder, or the one in another sweep that it stands for; a `UserError` if there is none."""
        if not str(folder):  # of an empty shell variable
            raise UserError("no run folder is given: run= is empty")
        run = cls(Path(str(folder)).expanduser())
        if run.status_file.is_file() and (elsewhere := run.status().get("run")):
            run = cls(run.folder / elsewhere)
        if not run.status_file.is_file() or not run.config_file.is_file():
            raise UserError(f"{folder} is not a run folder: it has no run.json with config.yaml beside it")
        return run

    @classmethod
    def create(
        cls, folder: Path, config: DictConfig, overrides: list[str], *, claim: bool = False, **entries: Any
    ) -> "Run":
        """Start a run in a folder of its own, which the `run_dir` of its configuration becomes.

        `claim` takes `<folder>_2`, … where the folder exists, instead of refusing one that holds a run. `entries` are
        more for run.json.

        Raises:
            UserError: the folder holds another run, or this process is not the first of several that were started.
        """
        _check_rank()
        if claim:
            folder = io.claim_folder(folder)
            config.run_dir = str(folder)
        run = cls(folder)
        if run.status_file.exists():
            raise UserError(f"{folder} holds a run already; continue it with resume={folder}, or give another run_dir")
        folder.mkdir(parents=True, exist_ok=True)
        try:  # only one of several processes can create it, on network drives too
            with run.config_file.open("x", encoding="utf-8") as file:
                OmegaConf.save(config, file, resolve=True)
        except FileExistsError as error:
            raise UserError(
                f"{folder} holds a config.yaml without a run.json: another run is just starting there, or was killed "
                f"while it did. Give another run_dir, or remove {run.config_file}"
            ) from error
        run.update(
            status="running",
            started=_now(),
            folder=str(folder.resolve()),
            command=[Path(sys.argv[0]).name, *sys.argv[1:]],
            overrides=overrides,
            seed=config.seed,
            git_commit=_git_commit(),
            python=platform.python_version(),
            platform=platform.platform(),
            packages={name: _version(name) for name in PACKAGES},
            **entries,
        )
        return run

    @classmethod
    def resume(cls, folder: str | Path, overrides: Sequence[str]) -> tuple["Run", DictConfig]:
        """An unfinished run and its configuration, with `trainer.…=…` and `data.root=…` of the resuming command.

        Raises:
            UserError: the folder holds no run or a finished one, or another override would make it another run.
        """
        _check_rank()
        run = cls.existing(folder)
        if run.status()["status"] == "finished":
            raise UserError(f"{folder} has finished; there is nothing to resume")
        if run.is_alive():
            raise _alive(folder)
        words = [word for word in overrides if setting_of(word) != "resume"]
        # not what the run was started with: its paths were relative to another folder
        new = [word for word in words if word not in run.status()["overrides"]]
        free = [w for w in new if w.startswith(resume.FREE_ON_RESUME) and not w.startswith(resume.FIXED_ON_RESUME)]
        if refused := resume.changing_overrides(run, [word for word in words if word not in free]):
            raise UserError(f"a resumed run keeps its configuration; leave out {' '.join(refused)}, or start a new run")
        made = run.status()["folder"]
        if made != str(run.folder.resolve()):  # its checkpoints would continue there
            raise UserError(f"{folder} was {made} when it was started; move it back there to resume it")
        config = OmegaConf.merge(run.config(), absolute_paths(OmegaConf.from_dotlist(free)))
        assert isinstance(config, DictConfig)
        check_settings(config)
        run.update(status="running", resumed=[*run.status().get("resumed", []), _now()], error=None)
        return run, config

    def config(self) -> DictConfig:
        """The configuration that the run was started with."""
        config = OmegaConf.load(self.config_file)
        assert isinstance(config, DictConfig)
        return config

    def take_catalog(self, catalog: pd.DataFrame, root: Root) -> None:
        """Write catalog.csv; a resumed run whose images are not the ones that it was started with is a `UserError`."""
        digest = data_hash(catalog)
        before = self.status().get("data_hash", digest)
        if digest != before:
            raise UserError(
                f"the images below {root}, or how they are divided, are not those of {self.folder}; "
                "restore them or start a new run"
            )
        save_catalog(catalog, self.catalog_file)
        folders = [str(folder) for folder in folders_of(root).values()]
        self.update(data_root=folders if len(folders) > 1 else folders[0], data_hash=digest)

    def catalog(self) -> pd.DataFrame:
        """The images of the run; a `UserError` if it ended before they were listed."""
        if not self.catalog_file.is_file():
            reason = self.status().get("error") or "it may just have started"
            raise UserError(f"{self.folder} has no catalog.csv, its images were not listed yet: {reason}")
        return load_catalog(self.catalog_file)

    def moved_root(self, root: str | Sequence[str]) -> Root:
        """Where the images lie now; a `UserError` if these are not as many folders as there were."""
        then, moved = self.status()["data_root"], existing_root(root)
        folders = [then] if isinstance(then, str) else then
        if len(folders_of(moved)) != len(folders):
            raise UserError(
                f"data.root={moved}: the images of {self.folder} lie below {len(folders)} "
                f"{'folder' if len(folders) == 1 else 'folders'}, {', '.join(folders)}; give as many, in this order, "
                "or data=<source> to evaluate all labelled images there as new ones"
            )
        return moved

    def data_root(self) -> Root:
        """Where the images lay when the run was started; a `UserError` if they are no longer there."""
        then = self.status()["data_root"]
        for folder in [then] if isinstance(then, str) else then:
            if not Path(folder).is_dir():
                raise UserError(f"the images of {self.folder} are no longer in {folder}; say where with data.root=…")
        return existing_root(then)

    def images(
        self, split: str, root: str | Sequence[str] | None = None, number: int | None = None
    ) -> list[tuple[str, str]]:
        """Path and label of the images of a split, or of a `number` of them, drawn at random.

        `root` is where they lie now, if they were moved.

        Raises:
            UserError: images that are missing or have changed.
        """
        found, table = self.moved_root(root) if root else self.data_root(), self.catalog()
        table = table[in_split(table, split)]
        if number is not None and number < len(table):
            table = table.sample(number, random_state=0).sort_index()
        verify_files(found, compare_files(found, table))
        return list(zip(file_paths(found, table["path"]), table["label"], strict=True))

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Note in run.json how what happens inside ends: finished, failed or interrupted; train.log has what is logged.

        That another process is just doing it is a `UserError`.
        """
        lock = FileLock(self._lock_file)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise _alive(self.folder) from error
        log_file = logging.FileHandler(self.log_file, encoding="utf-8", delay=True)
        log_file.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%H:%M:%S"))
        logging.getLogger().addHandler(log_file)
        try:
            for folder in (self.folder, self.checkpoints):
                io.remove_unfinished(folder)
            self.update(pid=os.getpid())
            yield
            self.update(status="finished", ended=_now())
        except BaseException as error:
            interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
            entries = {} if interrupted else {"error": f"{type(error).__name__}: {error}"}
            status = "interrupted" if interrupted else "failed"
            try:
                self.update(status=status, ended=_now(), **entries)
            except OSError as second:  # for the same reason, perhaps: it must not take the place of that one
                log.error("%s: %s cannot be written (%s)", status, self.status_file, second.strerror)
            if interrupted:
                log.warning("interrupted: resume=%s continues", self.folder)
            if isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS:
                raise UserError(
                    f"{error.filename or self.folder} cannot be written ({error.strerror}); what was there before is "
                    f"as it was. Make room and continue with resume={self.folder}"
                ) from error
            raise
        finally:
            logging.getLogger().removeHandler(log_file)
            log_file.close()
            lock.release()

    def is_alive(self) -> bool:
        """Whether a process trains it; `running` in run.json may also be what a killed one left."""
        if not os.access(self.folder, os.W_OK):  # of somebody else
            return True
        for seconds in (0, LOCK_SECONDS):  # the worker processes of one that was killed notice that after some seconds
            with suppress(Timeout), FileLock(self._lock_file, timeout=seconds):
                return False
            if _exists(self.status().get("pid", 0)):
                return True
        return True

    @classmethod
    def failed(cls, folder: Path, config: DictConfig, overrides: list[str], error: BaseException) -> None:
        """Note why a job failed, also one that is no run yet, but not in a run that another process trains."""
        run = cls(folder)
        if not run.status_file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            known = {"model": OmegaConf.select(config, "model.name"), "seed": OmegaConf.select(config, "seed")}
            run.update(status="failed", overrides=overrides, error=f"{type(error).__name__}: {error}", **known)
        elif not (run := cls(folder / run.status().get("run", "."))).is_alive():
            status = run.status()["status"]
            run.update(status="failed" if status == "running" else status, error=f"{type(error).__name__}: {error}")

    def status(self) -> dict[str, Any]:
        """What run.json says."""
        return dict(json.loads(self.status_file.read_text(encoding="utf-8")))

    def metrics(self) -> dict[str, Any]:
        """What metrics.json says; empty while the run has not ended."""
        return dict(json.loads(self.metrics_file.read_text(encoding="utf-8"))) if self.metrics_file.is_file() else {}

    def update(self, **entries: Any) -> None:
        """Add entries to run.json."""
        io.write_json(self.status_file, (self.status() if self.status_file.exists() else {}) | entries)


def _check_rank() -> None:
    """Raise a `UserError` in a process that torchrun or SLURM started beside a first one, which writes the same run."""
    for name in RANK_VARIABLES:
        if os.environ.get(name, "0") != "0":
            raise UserError(
                f"{name}={os.environ[name]}: several processes were started, and each would write the same run. Start "
                "one, without torchrun or with srun --ntasks=1; with trainer=ddp it starts the others itself"
            )


def _exists(pid: int) -> bool:
    """Whether there is a process of that number on this machine."""
    return pid > 0 and psutil.pid_exists(pid)  # os.kill(pid, 0) ends it on Windows


def _alive(folder: str | Path) -> UserError:
    return UserError(f"{folder} is being trained by another process; wait for it or end it")


def _now() -> str:
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_commit() -> str | None:
    """The commit of the code's checkout, with `+changes` when files differ from it; None outside a checkout."""
    folder = conf_dir().parent
    if not (folder / "pyproject.toml").is_file():  # an installed wheel, perhaps inside some other repository
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    with suppress(FileNotFoundError):  # git is not installed
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return done.stdout.strip() or None
    return None
