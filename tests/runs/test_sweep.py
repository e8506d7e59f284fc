"""Which jobs of a sweep need not be run again."""

import importlib
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from alu_defects import train as train_module
from alu_defects.config import compose, plain
from alu_defects.data.catalog import data_hash
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError
from alu_defects.models import registry
from alu_defects.runs import run as run_module
from alu_defects.runs import sweep
from alu_defects.runs.run import Run
from alu_defects.training import trainer


@pytest.fixture
def words(photographs: Path, tmp_path: Path) -> list[str]:
    return ["data=folder", f"data.root={photographs}", f"paths.runs={tmp_path}", "data.image_size=32"]


def data_of(config: DictConfig) -> DefectData:
    options = plain(config)
    return DefectData(**options["data"], split=options["split"], augment=options["augment"], seed=options["seed"])


def finish(config: DictConfig, folder: Path, **status: object) -> Run:
    run = Run.create(folder, config, [], **sweep.run_identity(config))
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
        sweep.run_identity(compose("train", words)) == sweep.run_identity(compose("train", [*words, override]))
    ) is same


def test_the_content_of_the_weights_is_in_the_identity(words, tmp_path):
    run = Run.create(tmp_path / "run", compose("train", words), [])
    job = Run(tmp_path / "job")
    job.folder.mkdir()
    job.update(status="reused", run="../run")
    run.checkpoints.mkdir()

    def of(path: Path) -> str:
        return sweep.run_identity(compose("train", [*words, f"model.weights={path}"]))["settings"]

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
        "train": "from alu_defects.reports import page",  # alone: what it imports does not count
        "reporting.evaluation": "",
        "reporting.page": "",
        "learning.trainer": "def later():\n    from alu_defects.data import datamodule",
        "learning.callbacks": "import alu_defects.signals",
        "signals": "",
        "data.datamodule": "",
        "data.auditing": "import alu_defects.training.trainer",
        "models.inception": "",
        "models.shufflenet": "",
    }
    files = {name: tmp_path.joinpath("alu_defects", *name.split(".")).with_suffix(".py") for name in sources}
    for name, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(sources[name])
    monkeypatch.setattr(sweep, "__file__", str(tmp_path / "alu_defects" / "learning" / "sweeps.py"))

    def digest(model: str = "shufflenet") -> str:
        sweep._code.cache_clear()
        return sweep.run_identity(compose("train", [*words, f"model={model}"]))["code"]

    yield digest, files
    sweep._code.cache_clear()


@pytest.mark.parametrize(
    "module",
    ["train", "reporting.evaluation", "learning.trainer", "data.datamodule", "signals", "models.shufflenet"],
)
def test_code_that_a_training_uses_is_in_the_identity(of_a_new_process, module):
    digest, files = of_a_new_process
    before = digest()
    with files[module].open("a") as file:
        file.write("\nx = 1")
    assert digest() != before


@pytest.mark.parametrize("module", ["reporting.page", "data.auditing", "models.inception"])
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
    assert sweep.run_identity(compose("train", [*words, "model=shufflenet"]))["code"] == before


def test_a_sentence_of_the_audit_is_not_in_the_identity_and_the_data_path_is(monkeypatch):
    read: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (read.append(self.name), read_bytes(self))[1])
    sweep._code.cache_clear()
    sweep.run_identity(compose("train"))
    assert {"train.py", "evaluation.py", "module.py", "datamodule.py", "scene.py", "shufflenet.py"} <= set(read)
    assert not {"auditing.py", "findings.py", "audit_page.py", "compare.py", "inception.py"} & set(read)


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
    sweep._code.cache_clear()


def test_a_backbone_of_another_package_is_in_the_identity(words, plugin):
    config = compose("train", [*words, "model.name=tiny"])
    before = sweep.run_identity(config)["code"]
    plugin.write_text("x = 1")
    sweep._code.cache_clear()
    assert sweep.run_identity(config)["code"] != before


def test_the_version_of_lightning_and_the_device_are_in_the_identity(words, monkeypatch):
    config = compose("train", words)
    sweep._code.cache_clear()
    before = sweep.run_identity(config)
    monkeypatch.setattr(sweep, "version", lambda name: "9.9" if name == "lightning" else version(name))
    sweep._code.cache_clear()
    after = sweep.run_identity(config)
    assert before["code"] != after["code"]
    sweep._code.cache_clear()
    monkeypatch.setattr(trainer, "native_bf16", lambda kind: before["computes_on"] == "cpu")
    assert sweep.run_identity(config)["computes_on"] != before["computes_on"]


def test_settings_are_compared_with_their_interpolations_resolved(words):
    config = compose("train", words)
    same = compose("train", [*words, f"optimizer.lr={config.model.learning_rate}", "run_dir=elsewhere"])
    assert sweep.run_identity(same) == sweep.run_identity(config)


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
    monkeypatch.setattr(run_module, "PATIENCE", 0.1)
    config = compose("train", words)
    assert sweep.find_unfinished(config) is None
    finish(config, tmp_path / "finished", started="2026-11-23T15")
    for hour, status in ((10, "running"), (12, "interrupted"), (11, "failed")):
        finish(config, tmp_path / status, status=status, started=f"2026-11-23T{hour}")
    finish(compose("train", [*words, "seed=1"]), tmp_path / "other", status="running", started="2026-11-23T13")
    moved = OmegaConf.merge(config, {"data": {"root": str(tmp_path)}})  # the same settings for other images
    Run.create(tmp_path / "elsewhere", moved, [], **sweep.run_identity(moved))
    assert found(config) == "interrupted"
    with Run(tmp_path / "interrupted").recorded():
        assert found(config) == "failed"  # the newest is being trained
    assert found(config) == "failed"  # it has finished


def found(config: DictConfig) -> str:
    run = sweep.find_unfinished(config)
    assert run is not None
    return run.folder.name


def test_weights_may_be_a_run_folder(words, tmp_path):
    run = Run.create(tmp_path / "new" / "run", compose("train", words), [])
    with pytest.raises(
        UserError, match=r"model.weights=.* has not finished its first epoch; there is no .*best\.ckpt$"
    ):
        sweep.weights_file(run.folder)
    run.checkpoints.mkdir()
    run.best.touch()
    assert sweep.weights_file(str(run.folder)) == run.best  # it has not ended
    run.weights.touch()
    assert sweep.weights_file(run.folder) == run.weights
    job = Run(tmp_path / "job")
    job.folder.mkdir()
    job.update(status="reused", run="../new/run")
    assert sweep.weights_file(job.folder).resolve() == run.weights
    assert sweep.weights_file(run.last) == run.last


def test_weights_in_a_folder_that_is_no_run_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"^model.weights={tmp_path}: .* is not a run folder"):
        sweep.weights_file(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sweep.weights_file("~/no/such.pth") == tmp_path / "no" / "such.pth"  # reading it says so


def test_a_run_of_another_network_than_the_default_keeps_its_identity_when_it_resumes(words, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "PATIENCE", 0.1)
    monkeypatch.setattr(train_module, "_train", lambda config, run, started: {})
    config = compose("train", [*words, "model=xception", f"run_dir={tmp_path / 'run'}"])
    before = sweep.run_identity(config)
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
    sweep._code.cache_clear()
    sweep.run_identity(compose("train", [*words, "model.name=tiny"]))
    assert {"parts.py", "xception.py"} <= set(read)


def test_a_backbone_that_was_typed_into_python_is_never_taken_for_another(words, plugin, monkeypatch):
    config = compose("train", [*words, "model.name=tiny"])
    monkeypatch.setattr(registry._registry["tiny"].factory, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    found = set()
    for _ in range(2):
        sweep._code.cache_clear()
        found.add(sweep.run_identity(config)["code"])
    assert len(found) == 2
