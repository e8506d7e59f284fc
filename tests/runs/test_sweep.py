"""Which jobs of a sweep need not be run again."""

import importlib
import math
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from alu_defects import train as train_module
from alu_defects.config import compose, plain
from alu_defects.data.catalog import data_hash
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError
from alu_defects.models import registry
from alu_defects.runs import identity, parallel, sweep
from alu_defects.runs import run as run_module
from alu_defects.runs.run import Run
from alu_defects.runs.sweep_callback import SweepCallback
from alu_defects.training import trainer


@pytest.fixture
def words(photographs: Path, tmp_path: Path) -> list[str]:
    return ["data=folder", f"data.root={photographs}", f"paths.runs={tmp_path}", "data.image_size=32"]


def data_of(config: DictConfig) -> DefectData:
    options = plain(config)
    return DefectData(**options["data"], split=options["split"], augment=options["augment"], seed=options["seed"])


def finish(config: DictConfig, folder: Path, **status: object) -> Run:
    run = Run.create(folder, config, [], **identity.run_identity(config))
    digest = data_hash(data_of(config).catalog)
    run.update(**{"status": "finished", "started": "2026", "data_hash": digest} | status)
    run.checkpoints.mkdir()
    run.best.touch()
    return run


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("paths.runs=elsewhere", True),
        ("paths.cache=elsewhere", True),
        ("data.root=elsewhere", True),
        ("data.cache=memory", True),
        ("trainer.enable_progress_bar=false", True),
        ("sweep.force=true", True),
        ("operating.max_escape=0.02", True),
        ("sweep=table2", True),
        ("callbacks.dashboard.every_n_epochs=1", True),
        ("logger=[tensorboard,csv]", True),
        ("seed=1", False),
        ("optimizer.lr=0.01", False),
        ("split.seed=1", False),
        ("data.image_size=48", False),
        ("data.resize=letterbox", False),
        ("data.bits=12", False),
        ("callbacks=[default,ema]", False),
    ],
)
def test_what_decides_the_outcome_is_in_the_identity(words, override, same):
    assert (
        identity.run_identity(compose("train", words)) == identity.run_identity(compose("train", [*words, override]))
    ) is same


def test_the_content_of_the_weights_is_in_the_identity(words, tmp_path):
    run = Run.create(tmp_path / "run", compose("train", words), [])
    job = Run(tmp_path / "job")
    job.folder.mkdir()
    job.update(status="reused", run="../run")
    run.checkpoints.mkdir()

    def of(path: Path) -> str:
        return identity.run_identity(compose("train", [*words, f"model.weights={path}"]))["settings"]

    for path, file in ((run.folder, run.best), (job.folder, run.best), (run.last, run.last), (run.folder, run.weights)):
        file.write_bytes(b"1")
        before = of(path)
        assert of(path) == before
        file.write_bytes(b"2")
        assert of(path) != before
    assert of(tmp_path)  # it is no run, which training says


@pytest.fixture
def of_a_new_process(words, monkeypatch, tmp_path):
    """The digest of the code of a small package in place of ours, with the path of each of its modules."""
    sources = {
        "train": "from alu_defects.reports import html",  # alone: what it imports does not count
        "evaluation.predictions": "",
        "reports.html": "",
        "training.trainer": "def later():\n    from alu_defects.data import datamodule",
        "training.callbacks": "import alu_defects.signals",
        "signals": "",
        "data.datamodule": "",
        "auditing.checks": "import alu_defects.training.trainer",
        "models.inception": "",
        "models.shufflenet": "",
    }
    files = {name: tmp_path.joinpath("alu_defects", *name.split(".")).with_suffix(".py") for name in sources}
    for name, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(sources[name])
    monkeypatch.setattr(identity, "__file__", str(tmp_path / "alu_defects" / "runs" / "identity.py"))

    def digest(model: str = "shufflenet") -> str:
        identity._code.cache_clear()
        return identity.run_identity(compose("train", [*words, f"model={model}"]))["code"]

    yield digest, files
    identity._code.cache_clear()


@pytest.mark.parametrize(
    "module",
    ["train", "evaluation.predictions", "training.trainer", "data.datamodule", "signals", "models.shufflenet"],
)
def test_code_that_a_training_uses_is_in_the_identity(of_a_new_process, module):
    digest, files = of_a_new_process
    before = digest()
    with files[module].open("a") as file:
        file.write("\nx = 1")
    assert digest() != before


@pytest.mark.parametrize("module", ["reports.html", "auditing.checks", "models.inception"])
def test_code_that_a_training_does_not_use_is_not_in_the_identity(of_a_new_process, module):
    digest, files = of_a_new_process
    before = digest()
    with files[module].open("a") as file:
        file.write("\nx = 1")
    assert digest() == before


def test_code_that_changes_while_a_process_runs_is_not_in_its_identity(of_a_new_process, words):
    digest, files = of_a_new_process
    before = digest()
    files["data.datamodule"].write_text("x = 1")
    assert identity.run_identity(compose("train", [*words, "model=shufflenet"]))["code"] == before


def test_a_sentence_of_the_audit_is_not_in_the_identity_and_the_data_path_is(monkeypatch):
    read: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (read.append(self.name), read_bytes(self))[1])
    identity._code.cache_clear()
    identity.run_identity(compose("train"))
    assert {"train.py", "predictions.py", "module.py", "datamodule.py", "scene.py", "shufflenet.py"} <= set(read)
    assert not {"checks.py", "findings.py", "audit_report.py", "compare.py", "inception.py"} & set(read)


def test_the_modules_whose_code_is_in_the_identity_exist():
    assert all(identity._file(name) for name in (*identity.CODE_WITH_IMPORTS, *identity.CODE_ALONE))


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A backbone of another package; returns another of its modules."""
    package = tmp_path / "plugin" / "some_networks"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "parts.py").write_text("")
    (package / "network.py").write_text("def tiny(num_classes, **options):\n    raise NotImplementedError\n")
    monkeypatch.syspath_prepend(package.parent)
    network = importlib.import_module("some_networks.network")
    registry.backbone_names()
    monkeypatch.setitem(registry._registry, "tiny", registry._Entry(network.tiny, "none"))
    yield package / "parts.py"
    for name in ("some_networks", "some_networks.network"):
        del sys.modules[name]
    identity._code.cache_clear()


def test_a_backbone_of_another_package_is_in_the_identity(words, plugin):
    config = compose("train", [*words, "model.name=tiny"])
    before = identity.run_identity(config)["code"]
    plugin.write_text("x = 1")
    identity._code.cache_clear()
    assert identity.run_identity(config)["code"] != before


def test_the_version_of_lightning_and_the_device_are_in_the_identity(words, monkeypatch):
    config = compose("train", words)
    identity._code.cache_clear()
    before = identity.run_identity(config)
    monkeypatch.setattr(identity, "version", lambda name: "9.9" if name == "lightning" else version(name))
    identity._code.cache_clear()
    after = identity.run_identity(config)
    assert before["code"] != after["code"]
    identity._code.cache_clear()
    monkeypatch.setattr(trainer, "native_bf16", lambda kind: before["computes_on"] == "cpu")
    assert identity.run_identity(config)["computes_on"] != before["computes_on"]


def test_settings_are_compared_with_their_interpolations_resolved(words):
    config = compose("train", words)
    same = compose("train", [*words, f"optimizer.lr={config.model.learning_rate}", "run_dir=elsewhere"])
    assert identity.run_identity(same) == identity.run_identity(config)


def test_a_job_finished_in_another_sweep_is_found_and_stands_in(words, tmp_path):
    config = compose("train", words)
    assert sweep.find_finished(config, data_of(config)) is None
    run = finish(config, tmp_path / "first" / "0_shufflenet")
    found = sweep.find_finished(config, data_of(config))
    assert found is not None
    assert found.folder == run.folder
    sweep.point_to_run(tmp_path / "second" / "0_shufflenet", found, ["seed=0"])
    moved = tmp_path.rename(tmp_path.with_name("moved"))  # the pointer is relative
    stands_in = Run.existing(moved / "second" / "0_shufflenet")
    assert stands_in.config() == OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert stands_in.status()["status"] == "finished"


@pytest.mark.parametrize(
    "status",
    [{"status": "running"}, {"status": "failed"}, {"status": "interrupted"}, {"data_hash": "of other images"}],
)
def test_what_has_not_finished_or_had_other_images_is_run_again(words, tmp_path, status):
    config = compose("train", words)
    finish(config, tmp_path / "run", **status)
    assert sweep.find_finished(config, data_of(config)) is None


def test_the_newest_of_several_stands_in(words, tmp_path):
    config = compose("train", words)
    for name, started in (("a", "2026-11-23T10"), ("b", "2026-11-23T12"), ("c", "2026-11-23T11")):
        finish(config, tmp_path / name, started=started)
    found = sweep.find_finished(config, data_of(config))
    assert found is not None
    assert found.folder.name == "b"


def test_the_newest_run_that_was_left_unfinished_continues(words, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "LOCK_SECONDS", 0.1)
    config = compose("train", words)
    assert sweep.find_unfinished(config) is None
    finish(config, tmp_path / "finished", started="2026-11-23T15")
    for hour, status in ((10, "running"), (12, "interrupted"), (11, "failed")):
        finish(config, tmp_path / status, status=status, started=f"2026-11-23T{hour}")
    finish(compose("train", [*words, "seed=1"]), tmp_path / "other", status="running", started="2026-11-23T13")
    moved = OmegaConf.merge(config, {"data": {"root": str(tmp_path)}})  # the same settings for other images
    Run.create(tmp_path / "elsewhere", moved, [], **identity.run_identity(moved))
    assert found(config) == "interrupted"
    with Run(tmp_path / "interrupted").recorded():
        assert found(config) == "failed"  # the newest is being trained
    assert found(config) == "failed"  # it has finished


def test_a_run_with_labels_of_another_table_does_not_continue(words, tmp_path):
    tables = [[*words, "data=table", f"data.table={tmp_path / name}.csv"] for name in "ab"]
    mine, other = (compose("train", [w for w in table if not w.startswith("data.root")]) for table in tables)
    Run.create(tmp_path / "mine", mine, [], **identity.run_identity(mine)).update(status="interrupted")
    assert found(mine) == "mine"
    assert sweep.find_unfinished(other) is None


def found(config: DictConfig) -> str:
    run = sweep.find_unfinished(config)
    assert run is not None
    return run.folder.name


def test_weights_may_be_a_run_folder(words, tmp_path):
    run = Run.create(tmp_path / "new" / "run", compose("train", words), [])
    with pytest.raises(
        UserError, match=r"model.weights=.* has not finished its first epoch; there is no .*best\.ckpt$"
    ):
        identity.weights_file(run.folder)
    run.checkpoints.mkdir()
    run.best.touch()
    assert identity.weights_file(str(run.folder)) == run.best  # it has not ended
    run.weights.touch()
    assert identity.weights_file(run.folder) == run.weights
    job = Run(tmp_path / "job")
    job.folder.mkdir()
    job.update(status="reused", run="../new/run")
    assert identity.weights_file(job.folder).resolve() == run.weights
    assert identity.weights_file(run.last) == run.last


def test_weights_in_a_folder_that_is_no_run_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"^model.weights={tmp_path}: .* is not a run folder"):
        identity.weights_file(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert identity.weights_file("~/no/such.pth") == tmp_path / "no" / "such.pth"  # reading it says so


def test_a_run_of_another_network_than_the_default_keeps_its_identity_when_it_resumes(words, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(train_module, "_train", lambda config, run, started: {})
    config = compose("train", [*words, "model=xception", f"run_dir={tmp_path / 'run'}"])
    before = identity.run_identity(config)
    Run.create(tmp_path / "run", config, [], **before).update(status="interrupted")
    train_module.train(compose("train", [f"resume={tmp_path / 'run'}"]))
    assert before.items() <= Run(tmp_path / "run").status().items()


def test_a_sweep_whose_folder_is_typed_again_leaves_its_runs_as_they_are(words, tmp_path):
    config = compose("train", [*words, f"run_dir={tmp_path / 'sweep' / '0'}"])
    run = finish(config, tmp_path / "sweep" / "0")
    before = run.status()
    found = sweep.find_finished(config, data_of(config))
    assert found is not None
    sweep.point_to_run(tmp_path / "sweep" / "0", found, [])
    assert run.status() == before


def test_code_of_ours_that_a_backbone_of_another_package_imports_is_in_the_identity(words, plugin, monkeypatch):
    plugin.write_text("from alu_defects.models.xception import xception")
    read: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (read.append(self.name), read_bytes(self))[1])
    identity._code.cache_clear()
    identity.run_identity(compose("train", [*words, "model.name=tiny"]))
    assert {"parts.py", "xception.py"} <= set(read)


def test_a_backbone_that_was_typed_into_python_is_never_taken_for_another(words, plugin, monkeypatch):
    config = compose("train", [*words, "model.name=tiny"])
    monkeypatch.setattr(registry._registry["tiny"].factory, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    found = set()
    for _ in range(2):
        identity._code.cache_clear()
        found.add(identity.run_identity(config)["code"])
    assert len(found) == 2


@pytest.fixture
def callback(tmp_path: Path) -> tuple[SweepCallback, list[tuple[list[Path], Path]]]:
    """That of a sweep in `tmp_path`, and with what the comparison was called."""
    compared: list[tuple[list[Path], Path]] = []
    callback = SweepCallback(lambda folders, output, operating: compared.append((folders, output)))
    callback.folder = tmp_path
    return callback, compared


def end_job(callback: SweepCallback, folder: Path, error: Exception | None) -> JobReturn:
    """End a job of a sweep as Hydra does."""
    hydra = {"mode": RunMode.MULTIRUN, "runtime": {"output_dir": str(folder)}, "overrides": {"task": ["seed=0"]}}
    config = OmegaConf.create({"seed": 0, "model": {"name": "xception"}, "hydra": hydra})
    job = JobReturn(status=JobStatus.FAILED if error else JobStatus.COMPLETED, _return_value=error or 0.5)
    folder.mkdir(exist_ok=True)
    callback.on_job_end(config, job)
    return job


def test_a_sweep_without_failed_jobs_is_compared(callback, tmp_path, capsys):
    Run(tmp_path / "0").folder.mkdir()
    Run(tmp_path / "0").update(status="finished", overrides=["seed=0"])
    assert end_job(callback[0], tmp_path / "0", None).return_value == 0.5
    callback[0].on_multirun_end(OmegaConf.create())
    assert callback[1] == [([tmp_path], tmp_path / "comparison")]
    assert capsys.readouterr().err == ""


def test_a_failed_job_is_recorded_and_listed_and_the_exit_code_is_1(callback, tmp_path, capsys):
    job = end_job(callback[0], tmp_path / "0", UserError("no images"))
    assert math.isnan(job.return_value)  # and not raised: the other jobs continue
    status = Run(tmp_path / "0").status()
    assert (status["status"], status["error"], status["model"]) == ("failed", "UserError: no images", "xception")
    with pytest.raises(SystemExit) as caught:
        callback[0].on_multirun_end(OmegaConf.create())
    assert caught.value.code == 1
    assert capsys.readouterr().err == "failed jobs:\n  seed=0: UserError: no images\n"
    assert len(callback[1]) == 1


def test_a_job_that_could_not_start_over_a_finished_run_counts_as_failed(callback, words, tmp_path):
    config = compose("train", [*words, f"run_dir={tmp_path / '0'}"])
    run = finish(config, tmp_path / "0")
    end_job(callback[0], run.folder, UserError("holds a run already"))
    assert run.status()["status"] == "finished"
    assert not callback[0].report()
    sweep.point_to_run(run.folder, run, [])  # the next sweep takes it as it is
    assert callback[0].report()


def test_a_job_whose_process_was_killed_counts_as_failed(callback, words, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "LOCK_SECONDS", 0.1)
    config = compose("train", words)
    run = Run.create(tmp_path / "0", config, [])
    Run.failed(run.folder, config, [], UserError("its process ended with exit code -9"))
    assert run.status()["status"] == "failed"
    assert not callback[0].report()


def test_an_error_of_the_comparison_ends_a_sweep_with_its_message(callback, tmp_path, capsys):
    end_job(callback[0], tmp_path / "0", ValueError("x"))
    callback[0].compare = lambda folders, output, operating: fail(UserError("no such class"))
    with pytest.raises(SystemExit) as caught:
        callback[0].on_multirun_end(OmegaConf.create())
    assert caught.value.code == 2
    assert "error: no such class" in capsys.readouterr().err


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("overrides", "memory", "count"),
    [
        ([], 2**40, 4),
        ([], 5 * 2**30, 2),
        ([], 2**20, 1),
        (["data.image_size=400"], 20 * 2**30, 2),
        (["data.image_size=[200,800]"], 20 * 2**30, 2),
        (["data.image_size=[200]"], 2**40, 4),  # the jobs refuse it
        (["trainer=ddp", "trainer.accelerator=cpu"], 2**40, 1),
    ],
)
def test_as_many_jobs_run_at_once_as_cores_and_memory_allow(monkeypatch, overrides, memory, count):
    monkeypatch.setattr(trainer, "device_type", lambda accelerator: "cpu")
    monkeypatch.setattr(parallel.joblib, "cpu_count", lambda: 4)
    monkeypatch.setattr(parallel.psutil, "virtual_memory", lambda: SimpleNamespace(available=memory))
    config = compose("train", ["data.image_size=112", *overrides])
    assert parallel.count_jobs_that_fit([config] * 6) == count


def test_on_a_gpu_jobs_run_one_after_the_other(monkeypatch):
    monkeypatch.setattr(trainer, "device_type", lambda accelerator: "cuda")
    assert parallel.count_jobs_that_fit([compose("train")] * 6) == 1


@pytest.mark.slow
def test_jobs_that_run_at_once_end_as_those_that_run_one_after_the_other(command, small, tmp_path):
    words = ["-m", *small, "trainer.max_epochs=1", "model.width=0.5,wide"]
    done = {
        jobs: command("train", *words, f"sweep.jobs={jobs}", f"paths.runs={tmp_path / str(jobs)}") for jobs in (1, 2)
    }
    for result in done.values():
        assert result.returncode == 1
        assert "failed jobs:" in result.stderr
        assert "UserError: model.width=wide is not a number" in result.stderr
    assert "2 at once" in done[2].stdout
    assert "0_shufflenet_seed0" in done[2].stdout
    (one,), (two,) = (list((tmp_path / str(jobs)).iterdir()) for jobs in (1, 2))
    same = "0_shufflenet_seed0/predictions.csv"
    assert (one / same).read_bytes() == (two / same).read_bytes()
    assert "images:" in (two / "0_shufflenet_seed0" / "train.log").read_text()  # what it printed
    assert Run(two / "0_shufflenet_seed0").status()["settings"] == Run(one / "0_shufflenet_seed0").status()["settings"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_ends_the_jobs_that_run_at_once_in_order(small, tmp_path):
    words = [*small, "trainer.max_epochs=1000", "seed=0,1", "sweep.jobs=2", f"paths.runs={tmp_path}"]
    command = [sys.executable, "-m", "alu_defects.train", "-m", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.glob("*/*/metrics.csv"))) < 2:
        assert process.poll() is None
        time.sleep(0.5)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 143
    assert "interrupted by SIGTERM" in errors
    (folder,) = tmp_path.iterdir()
    assert [Run(file.parent).status()["status"] for file in folder.glob("*/run.json")] == ["interrupted"] * 2
    assert (folder / "comparison" / "report.html").is_file()


@pytest.mark.slow
def test_jobs_that_submitit_runs_give_the_same_table_and_exit_code(command, small, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = [*small, "trainer.max_epochs=1", "model.width=0.5,wide", f"paths.runs={tmp_path / 'runs'}"]
    done = command("train", "-m", "hydra/launcher=submitit_local", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert "UserError: model.width=wide is not a number" in done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    table = pd.read_csv(folder / "comparison" / "runs.csv").set_index("job")
    assert table["status"].to_dict() == {"0_shufflenet_seed0": "finished", "1_shufflenet_seed0": "failed"}


def test_the_number_of_threads_tells_no_runs_apart():
    one, other = (compose("train", words) for words in ([], ["trainer.threads=1"]))
    assert identity.identity_settings(one) == identity.identity_settings(other)
