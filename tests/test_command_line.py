import json
import math
import os
import re
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from PIL import Image

from alu_defects.cli import _same_kind
from alu_defects.config import ALLOWED, check_settings, compose, conf_dir, plain
from alu_defects.data import decode
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError
from alu_defects.evaluate import evaluate
from alu_defects.evaluation.operating import OperatingPoint
from alu_defects.reports.tensorboard import Dashboard
from alu_defects.runs import sweep
from alu_defects.train import monitored_value, train
from alu_defects.training import checkpoint, trainer
from alu_defects.training.module import Classifier

VERBS = ["train", "evaluate", "compare", "audit", "benchmark", "predict", "export", "explain", "serve", "watch"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"]])
def test_help_and_cfg_answer_at_once(command, verb, words, monkeypatch):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = command(verb, *words)
    assert done.returncode == 0
    assert {
        "compare": "runs",
        "audit": "near_duplicates",
        "benchmark": "batch_sizes",
        "predict": "top_k",
        "export": "formats",
        "explain": "layer",
        "serve": "max_bytes",
        "watch": "settle",
    }.get(verb, "trainer") in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "lightning", "pandas", "matplotlib"}  # what takes seconds


@pytest.mark.parametrize(
    ("overrides", "wrong", "fix"),
    [
        (["model=inceptionv4_sce"], "model=inceptionv4_sce", "inceptionv4_scse"),
        (["modle=xception"], "modle", "model"),
        (["optimizer.lrr=1"], "optimizer.lrr", "optimizer.lr"),
        (["trainer.max_epoch=1"], "trainer.max_epoch", "trainer.max_epochs"),
        (["seed=abc"], "seed=abc", "a whole number"),
        (["optimizer.lr=fast"], "optimizer.lr=fast", "a number"),
        (["optimizer=sgd", "optimizer.lr=fast"], "optimizer.lr=fast", "a number"),
        (["augment.vertical_flip=3"], "augment.vertical_flip=3", "true or false"),
        (["data=folder"], "data.root", "data.root=…"),
        (["resume=no/such/run"], "no/such/run", "run folder"),
        (["callbacks=[default,emma]"], "callbacks=emma", "ema"),
        (["model=timm"], "model.name", "model.name=…"),
        (["callbacks=[]"], "callbacks", "callbacks=[default]"),
    ],
)
def test_a_wrong_word_on_the_command_line_is_named_with_its_fix(typed, tmp_path, overrides, wrong, fix):
    done = typed("train", f"paths.runs={tmp_path / 'runs'}", *overrides, cwd=tmp_path)
    assert done.returncode == 2
    if "callbacks=[]" not in overrides:  # found after the run was started, which is recorded
        assert not [path for path in tmp_path.rglob("*") if path.name != "runs"]  # nothing is left behind
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert wrong in message
    assert fix in message


@pytest.mark.parametrize(
    ("verb", "word", "message"),
    [
        ("audit", "model=xception", "audit takes no group model; leave it out"),
        ("compare", "data=folder", "compare takes no group data; leave it out"),
        (
            "audit",
            "splti=random",
            "there is no setting splti; did you mean split or split.gap or split.seed? `--cfg job` shows all.",
        ),
        ("audit", "modle=xception", "there is no setting modle. `--cfg job` shows all."),
    ],
)
def test_a_group_that_a_verb_does_not_use_is_named(typed, tmp_path, verb, word, message):
    done = typed(verb, word, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")


def test_an_error_of_a_single_job_is_all_that_is_printed(typed, tmp_path):
    done = typed("audit", "data=folder", "data.root=/no/such/folder", f"output={tmp_path / 'out'}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == ("error: data.root=/no/such/folder is not a folder; give the folder of the images\n")


def test_an_error_of_the_program_leaves_a_single_job_as_it_is(typed, tmp_path, monkeypatch):
    monkeypatch.setattr("alu_defects.cli.check", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        typed("audit", cwd=tmp_path)


@pytest.mark.parametrize(
    ("overrides", "wrong", "fix"),
    [
        (["data.root=/no/such/folder"], "/no/such/folder", "is not a folder"),
        (["data.source=foldr"], "data.source=foldr", "folder"),
        (["split.name=randm"], "split.name=randm", "random"),
        (["loss._target_=alu_defects.training.losses.Focall"], "losses.Focall", "did you mean Focal?"),
        (["optimizer._target_=os.system"], "os.system", "torch.optim"),
        (["+optimizer.momentun=1"], "momentun", "torch.optim.AdamW"),
        pytest.param(
            ["trainer=gpu"],
            "trainer.accelerator=gpu",
            "trainer=auto",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (["trainer.devices=2"], "trainer.devices=2", "trainer=ddp"),
        (["callbacks.best.monitor=val/acc"], "val/acc", "val/accuracy"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_its_fix(small, tmp_path, overrides, wrong, fix):
    config = compose("train", [*small, *overrides, f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(UserError) as caught:
        train(config)
    assert wrong in str(caught.value)
    assert fix in str(caught.value)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.attention=scs"], "'scs'; did you mean scse"),
        (["model.width=0.7"], "no width=0.7; it is one of 0.5"),
        (["model=timm", "model.name=timm/resnet81"], "resnet81'; did you mean .*resnet18"),
        (["model=inceptionv4", "data.image_size=74"], "data.image_size=74 is too small for inceptionv4; give 75"),
        (
            ["model=xception", "data.image_size=[32,31]"],
            r"data.image_size=\[32,31\] is too small for xception; give 32",
        ),
    ],
)
def test_a_network_that_cannot_be_made_is_refused_before_images_are_read(small, tmp_path, overrides, message):
    if overrides[0].startswith("model="):
        small = [o for o in small if not o.startswith("model.width")]
    config = compose("train", [*small, *overrides, "data.root=/no/such/folder", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(UserError, match=message):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["[32]", "[32,0]", "[32,48,3]", "32.5", "[32,a]", "true", "0", "[]"])
def test_a_wrong_image_size_is_refused(typed, small, tmp_path, value):
    done = typed("train", *small, f"data.image_size={value}", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "error: data.image_size=" in done.stderr
    assert "a whole number or a list of 2 whole numbers" in done.stderr or "must be 1 or more" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_frame_by_the_shape_of_the_images_stays_that_of_the_run(typed, small, photographs, tmp_path):
    run = tmp_path / "run"
    words = [*small, "data.image_size=auto", "trainer.max_epochs=1", f"paths.cache={tmp_path}", f"run_dir={run}"]
    done = typed("train", *words)
    assert done.returncode == 0, done.stderr
    status = json.loads((run / "run.json").read_text())
    assert status["image_size"] == list(decode.choose_size(sorted(photographs.rglob("*.png"))))
    before = (run / "metrics.json").read_text()
    assert typed("evaluate", f"run={run}", f"paths.cache={tmp_path}", "trainer=cpu").returncode == 0
    evaluated = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())
    assert evaluated["test"] == json.loads(before)["test"]


def test_a_frame_that_is_no_square_from_training_to_evaluation(typed, small, tmp_path):
    caches, run = tmp_path / "cache", tmp_path / "run"
    words = ["model.attention=scse", "trainer.max_epochs=1", "callbacks.dashboard.embeddings=true"]
    words += ["data.image_size=[48,32]", "data.resize=letterbox", f"paths.cache={caches}", f"run_dir={run}"]
    done = typed("train", *small, *words)
    assert done.returncode == 0, done.stderr
    assert (caches / "pixels" / "v2_48x32_letterbox").is_dir()
    for name in ("best.ckpt", "model.safetensors"):
        assert tuple(checkpoint.load_classifier(run / "checkpoints" / name).hparams["image_size"]) == (48, 32)
    assert len(list(run.rglob("sprite.png"))) == 1
    done = typed("evaluate", f"run={run}", f"output={tmp_path / 'out'}", f"paths.cache={caches}")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out" / "mistakes.png") as mistakes:
        assert mistakes.width > 150


def test_an_image_above_the_limit_of_pixels_is_named(typed, small, tmp_path):
    words = ["data.max_pixels=100", f"paths.cache={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}"]
    done = typed("train", *small, *words)
    assert done.returncode == 2
    assert "TooManyPixelsError: " in done.stderr
    assert "more than max_pixels=100)" in done.stderr
    done = typed("audit", *small[:2], "data.max_pixels=100", f"output={tmp_path / 'audit'}")
    assert done.returncode == 1
    assert "huge image" in (tmp_path / "audit" / "audit.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("config_name", "override", "message"),
    [
        ("train", "trainer.max_epochs=0", "trainer.max_epochs=0 must be 1 or more"),
        ("train", "seed=-1", "seed=-1 must be 0 or more"),
        ("train", "data.num_workers=many", "data.num_workers=many is not a whole number or auto"),
        (
            "train",
            "data.cache=dsk",
            "data.cache=dsk does not exist; did you mean disk? There are: auto, device, memory",
        ),
        ("train", "data.synthetic.severity=3", "data.synthetic.severity=3 must be from 0.1 to 2"),
        ("train", "data.synthetic.size=[640]", "data.synthetic.size=[640] is not a list of 2 whole numbers"),
        ("train", "data.synthetic.size=[640,32]", "data.synthetic.size=[640, 32] must be from 64 to 4096"),
        ("train", "sweep.jobs=0", "sweep.jobs=0 must be 1 or more or auto"),
        ("evaluate", "operating.max_escape=1", "operating.max_escape=1 must be above 0 and below 1"),
        ("evaluate", "operating.reject=-0.1", "operating.reject=-0.1 must be 0 or more and below 1"),
        ("audit", "near_duplicates.max_distance=1025", "near_duplicates.max_distance=1025 must be from 0 to 1024"),
    ],
)
def test_a_setting_out_of_range_is_named_with_what_is_allowed(config_name, override, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        check_settings(compose(config_name, [override, *(["run=x"] if config_name == "evaluate" else [])]))


def test_functions_for_python_check_ranges_before_anything_is_written(small, tmp_path):
    with pytest.raises(UserError, match=r"trainer\.max_epochs=0 must be 1 or more"):
        train(compose("train", [*small, "trainer.max_epochs=0", f"run_dir={tmp_path / 'run'}"]))
    with pytest.raises(UserError, match=r"operating\.reject=1 must be"):
        evaluate(compose("evaluate", [f"run={tmp_path}", "operating.reject=1"]))
    assert not list(tmp_path.iterdir())


def test_every_setting_of_the_table_exists_and_its_default_is_allowed():
    found = set()
    choices = ["split=kfold", "loss=focal", "scheduler=step"]
    others = (
        ["evaluate", "run=x"],
        ["predict", "run=x", "source=x", "top_k=3"],
        ["export", "run=x"],
        ["serve", "run=x"],
        ["watch", "run=x", "source=x", "output=x"],
    )
    for words in (
        ["train"],
        ["train", *choices],
        ["train", "data=surfaces"],
        *others,
        ["audit"],
        ["benchmark"],
        ["compare"],
        ["explain", "run=x"],
    ):
        config = compose(words[0], words[1:])
        check_settings(config)
        found |= {key for key in ALLOWED if OmegaConf.select(config, key) is not None}
    assert found == set(ALLOWED)


@pytest.mark.parametrize(("monitor", "value"), [("val/f1", 0.8), ("val/loss", 0.4), ("val/recall/a/b", 0.6)])
def test_the_objective_is_the_monitored_value(monitor, value):
    val = {"f1": 0.8, "loss": 0.4, "per_class": {"a/b": {"recall": 0.6}}}
    assert monitored_value(monitor, {"val": val}) == value


def test_a_broken_image_is_named_or_excluded(typed, small, photographs, tmp_path):
    root = tmp_path / "data"
    for label, red in (("good", 0), ("bad", 255)):
        (root / label).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (40, 40), (red, 50 * number, 0)).save(root / label / f"{number}.png")
    (root / "bad" / "3.png").write_bytes(b"not an image")
    words = [*small, f"data.root={root}", "trainer.max_epochs=1"]
    done = typed("train", *words, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert str(root / "bad" / "3.png") in done.stderr
    assert "Traceback" not in done.stderr
    status = json.loads((tmp_path / "run" / "run.json").read_text())
    assert status["status"] == "failed"
    assert "3.png" in status["error"]
    done = typed("train", *words, "data.on_broken=exclude", f"run_dir={tmp_path / 'without'}")
    assert done.returncode == 0, done.stderr
    broken = pd.read_csv(tmp_path / "without" / "excluded.csv")
    assert broken["path"].tolist() == ["bad/3.png"]
    assert "not an image" in broken["detail"].item()
    assert len(pd.read_csv(tmp_path / "without" / "catalog.csv")) == 9
    assert typed("evaluate", f"run={tmp_path / 'without'}", "data.cache=none").returncode == 0


@pytest.mark.parametrize(
    ("default", "value", "same"),
    [
        (False, "auto", True),
        ("auto", True, True),
        ("auto", 4, True),
        (False, "yes", False),
        ("word", True, False),
        (4, "auto", False),
        (True, 1, False),
    ],
)
def test_automatic_stands_beside_true_and_false(default, value, same):
    assert _same_kind(default, value) is same


def test_a_run_folder_holds_everything(finished_run):
    files = {path.relative_to(finished_run).as_posix() for path in finished_run.rglob("*") if path.is_file()}
    assert files >= {
        "config.yaml",
        "run.json",
        "catalog.csv",
        "metrics.json",
        "operating.json",
        "metrics.csv",
        "predictions.csv",
        "confusion.csv",
        "confusion.png",
        "curves.png",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }
    assert any(name.startswith("tensorboard/") for name in files)
    status = json.loads((finished_run / "run.json").read_text())
    assert status["status"] == "finished"
    assert {"overrides", "seed", "packages", "git_commit", "data_hash", "started", "ended"} <= set(status)
    history = pd.read_csv(finished_run / "metrics.csv")
    assert history["epoch"].tolist() == [0, 1]
    assert {"train/loss", "val/loss", "val/f1", "val/recall/across", "train/images_per_second"} <= set(history)
    assert history.notna().all(axis=None)


def test_a_sweep_ends_with_a_report(sweep):
    folder = sweep / "comparison"
    runs = pd.read_csv(folder / "runs.csv")
    assert set(runs["group"]) == {"shufflenet model.width=0.5", "shufflenet model.width=1.0"}
    assert set(runs["status"]) == {"finished"}
    table = pd.read_csv(folder / "table2.csv").set_index("group")
    for row in runs.to_dict("records"):
        metrics = json.loads((sweep / row["job"] / "metrics.json").read_text())
        for name in ("accuracy", "precision", "recall", "f1"):
            assert row[name] == pytest.approx(metrics["test"][name])
            assert table.loc[row["group"], name] == pytest.approx(metrics["test"][name], abs=1e-6)
        assert table.loc[row["group"], "multiply_adds"] == metrics["multiply_adds"] > 1e5
    assert (folder / "report.html").stat().st_size > (folder / "report.md").stat().st_size > 1000
    for name in ("loss", "epochs", "classes", "accuracy"):
        assert {(folder / f"{name}.{kind}").is_file() for kind in ("png", "svg")} == {True}


@pytest.mark.slow
def test_a_sweep_that_is_started_again_runs_what_is_missing(typed, small, sweep, tmp_path):
    """One job has finished in another sweep, one is new, one is wrong."""
    finished = sweep / "0_shufflenet_seed0"
    runs = tmp_path / "runs"
    shutil.copytree(finished, runs / "before" / finished.name)
    done = typed("train", "-m", *small, "model.width=0.5,wide,1.0", "sweep.jobs=1", f"paths.runs={runs}")
    assert done.returncode == 1
    assert "failed jobs" in done.stderr
    assert "model.width=wide is not a number" in done.stderr
    assert done.stdout.count("finished before, not run again") == 1
    (again,) = set(runs.iterdir()) - {runs / "before"}
    table = pd.read_csv(again / "comparison" / "runs.csv").set_index("group")
    assert table["status"].to_dict() == {
        "shufflenet model.width=0.5": "finished",
        "shufflenet model.width=wide": "failed",
        "shufflenet model.width=1.0": "finished",
    }
    assert "is not a number" in table.loc["shufflenet model.width=wide", "error"]
    before, after = (pd.read_csv(folder / "comparison" / "table2.csv") for folder in (sweep, again))
    measured = ["accuracy", "precision_low", "f1_high", "accuracy_session_low", "images", "repeats"]
    by_name = before.set_index("group")[measured].sort_index()
    pd.testing.assert_frame_equal(by_name, after.set_index("group")[measured].sort_index())


def test_evaluate_recomputes_what_training_wrote(typed, finished_run, tmp_path):
    done = typed("evaluate", f"run={finished_run}", f"output={tmp_path}", "trainer=cpu", "split=test")
    assert done.returncode == 0, done.stderr
    assert "No class is called normal" in done.stdout
    assert OperatingPoint.load(finished_run / "operating.json").calibration.temperature > 0
    assert {"intervals", "calibration"} <= set(json.loads((tmp_path / "metrics.json").read_text()))
    for name in ("report.html", "report.md", "classes.csv", "roc.png", "confusions.png", "reject.svg"):
        assert (tmp_path / name).is_file(), name
    again = json.loads((tmp_path / "metrics.json").read_text())["test"]
    before = json.loads((finished_run / "metrics.json").read_text())["test"]
    for name in ("loss", "accuracy", "precision", "recall", "f1"):
        assert again[name] == pytest.approx(before[name], abs=1e-6)
    first, second = (pd.read_csv(folder / "predictions.csv") for folder in (finished_run, tmp_path))
    pd.testing.assert_frame_equal(first, second, atol=1e-6)


@pytest.mark.slow
def test_evaluate_computes_in_the_precision_of_the_run_unless_another_is_typed(finished_run, tmp_path, monkeypatch):
    run = shutil.copytree(finished_run, tmp_path / "run")
    status = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(status | {"precision": "bf16-mixed", "folder": str(run)}))
    used = []
    create = trainer.create_trainer
    monkeypatch.setattr(
        trainer, "create_trainer", lambda options, **more: (used.append(options), create(options, **more))[1]
    )
    for words in ([], ["trainer.precision=32-true"]):
        evaluate(compose("evaluate", [f"run={run}", "trainer=cpu", *words]))
    assert [options["precision"] for options in used] == ["bf16-mixed"] * 2 + ["32-true"] * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("devices", ["[1]", "auto", "[0,1]", "2"])
def test_devices_may_be_a_number_a_list_or_auto(typed, tmp_path, devices):
    done = typed("train", "trainer=gpu", f"trainer.devices={devices}", f"run_dir={tmp_path / 'run'}")
    assert "trainer.devices=" not in done.stderr
    assert "there is no GPU that PyTorch can use" in done.stderr  # what comes next


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run=/no/such/run"], "not a run folder"),
        (["split=train"], "split=train"),
        (["operating.normal=alogn"], "operating.normal=alogn is not a class; did you mean along?"),
        (["operating.max_escape=1"], "operating.max_escape=1 must be above 0 and below 1"),
        (["data.root=/no/such/folder"], "/no/such/folder"),
        ([], "run is not given"),
    ],
)
def test_evaluate_says_what_is_wrong(typed, finished_run, overrides, message):
    words = [*([f"run={finished_run}"] if overrides and not overrides[0].startswith("run=") else []), *overrides]
    done = typed("evaluate", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_network_that_gives_no_numbers_is_not_judged(typed, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for values in checkpoint["state_dict"].values():
        values.fill_(math.nan) if values.is_floating_point() else None
    torch.save(checkpoint, run / "checkpoints" / "best.ckpt")
    done = typed("evaluate", f"run={run}", f"output={tmp_path / 'report'}", "trainer=cpu")
    assert done.returncode == 2
    images = len(pd.read_csv(run / "evaluation" / "val" / "predictions.csv"))
    assert f"no numbers (NaN) for {images} of {images} val images" in done.stderr
    assert not (tmp_path / "report").exists()


def test_a_resumed_run_ends_as_the_uninterrupted_one(typed, small, tmp_path):
    straight, run = tmp_path / "straight", tmp_path / "run"
    train(compose("train", [*small, f"run_dir={straight}", "trainer.max_epochs=3"]))
    config = compose("train", [*small, f"run_dir={run}", "trainer.max_epochs=3"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dashboard, "on_validation_end", interrupt_in_the_second_epoch)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(config)
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0

    refused = typed("train", f"resume={run}", "optimizer.lr=1")
    assert refused.returncode == 2
    assert "optimizer.lr=1" in refused.stderr

    done = typed("train", f"resume={run}")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    resumed, expected = (
        pd.read_csv(folder / "metrics.csv").drop(columns=["train/images_per_second", "train/seconds"])
        for folder in (run, straight)
    )
    pd.testing.assert_frame_equal(resumed, expected, check_exact=True)
    weights, wanted = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in (run, straight)
    )
    assert all(torch.equal(weights[key], wanted[key]) for key in wanted)
    alone = checkpoint.load_classifier(run / "checkpoints" / "model.safetensors")
    assert alone.about["data_hash"] == json.loads((run / "run.json").read_text())["data_hash"]

    again = typed("train", f"resume={run}")
    assert again.returncode == 2
    assert "has finished" in again.stderr


def interrupt_in_the_second_epoch(self, trainer, module):
    if trainer.current_epoch == 1:
        raise KeyboardInterrupt


@pytest.mark.slow
def test_a_signal_ends_a_sweep_with_its_table_and_it_can_continue(typed, small, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    words = ["-m", *small, "seed=0,1", "sweep.jobs=1", f"paths.runs={runs}"]
    step = Classifier.training_step

    def killed(self, batch, batch_idx):
        if json.loads(Path(self.trainer.loggers[1].path.parent, "run.json").read_text())["seed"] == 1:
            assert self.current_epoch == 0 or os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", killed)
        done = typed("train", *words)
    assert done.returncode == 143
    assert "Traceback" not in done.stderr
    assert "interrupted by SIGTERM" in done.stderr
    (first,) = runs.iterdir()
    table = pd.read_csv(first / "comparison" / "runs.csv")
    assert table["status"].tolist() == ["finished", "interrupted"]
    stopped = json.loads((first / "1_shufflenet_seed1" / "run.json").read_text())
    assert stopped["status"] == "interrupted"

    done = typed("train", *words, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished before, not run again") == 1
    (again,) = set(runs.iterdir()) - {first}
    table = pd.read_csv(again / "comparison" / "runs.csv").set_index("seed")
    assert table["status"].tolist() == ["finished"] * 2
    for seed in (0, 1):  # they are where they were begun
        assert not (again / f"{seed}_shufflenet_seed{seed}" / "checkpoints").exists()
    assert json.loads((first / "1_shufflenet_seed1" / "run.json").read_text())["status"] == "finished"
    assert len(pd.read_csv(first / "1_shufflenet_seed1" / "metrics.csv")) == 2
    resumed = compose("train", [*small, "seed=1", f"paths.runs={runs}"])
    assert sweep.find_finished(resumed, DefectData(**plain(resumed.data), split=plain(resumed.split))) is not None


@pytest.mark.slow
def test_resume_auto_continues_in_the_folder_of_the_unfinished_run_or_begins_one(typed, small, tmp_path):
    runs = tmp_path / "runs"
    words = [*small, f"paths.runs={runs}", "resume=auto"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dashboard, "on_validation_end", interrupt_in_the_second_epoch)
        assert typed("train", *words).returncode == 1  # of Lightning, for a KeyboardInterrupt
    (run,) = runs.iterdir()
    done = typed("train", *words)
    assert done.returncode == 0, done.stderr
    assert list(runs.iterdir()) == [run]
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert "epoch 2/2" in (run / "train.log").read_text()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_run_that_stopped_early_and_was_killed_later_does_not_train_on(typed, small, tmp_path, monkeypatch):
    words = [*small, "callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=1"]
    words += ["trainer.max_epochs=30", "optimizer.lr=1e-9"]
    assert typed("train", *words, f"run_dir={tmp_path / 'straight'}").returncode == 0
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_weights", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert typed("train", *words, f"run_dir={tmp_path / 'run'}").returncode == 143
    assert typed("train", f"resume={tmp_path / 'run'}").returncode == 0
    ended, straight = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "straight"))
    assert ended["epochs"] == straight["epochs"] < 30
    assert ended["test"] == straight["test"]


@pytest.mark.slow
def test_a_command_with_a_folder_of_its_own_can_be_typed_again(typed, small, tmp_path):
    words = [*small, f"run_dir={tmp_path / 'mine'}", f"paths.runs={tmp_path / 'runs'}", "resume=auto"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dashboard, "on_validation_end", interrupt_in_the_second_epoch)
        assert typed("train", *words).returncode == 1
    done = typed("train", *words)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "mine" / "metrics.csv")) == 2


def test_every_choice_of_the_configuration_composes():
    for group in ("model", "data", "augment", "loss", "optimizer", "scheduler", "trainer", "experiment", "debug"):
        choices = [file.stem for file in (conf_dir() / group).glob("*.yaml") if not file.stem.startswith("_")]
        assert choices
        for choice in choices:
            compose("train", [f"{group}={choice}"])
    compose("train", ["callbacks=[default,early_stopping,ema]"])


def test_weighted_binary_loss_with_sgd_and_warm_up_trains(small, tmp_path):
    words = ["loss=binary", "loss.class_weights=balanced", "optimizer=sgd", "scheduler=cosine", "augment=none"]
    train(compose("train", [*small, *words, f"run_dir={tmp_path / 'run'}"]))
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    sums = table.filter(like="probability_").sum(axis=1)
    assert (sums - 1).abs().max() > 0.01  # each class against the rest: no softmax


def test_the_average_of_the_weights_is_what_is_saved_and_stopping_early_stops(small, tmp_path):
    words = ["callbacks=[default,early_stopping,ema]", "callbacks.early_stopping.patience=1", "trainer.max_epochs=30"]
    slow = ["optimizer.lr=1e-9", "loss=focal", "scheduler=step", "data.resize=letterbox"]
    results = train(compose("train", [*small, *words, *slow, f"run_dir={tmp_path / 'run'}"]))
    assert results["epochs"] < 30
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert "current_model_state" in saved
    assert any(not torch.equal(saved["state_dict"][k], v) for k, v in saved["current_model_state"].items())


def test_evaluate_finds_moved_images_and_refuses_others(typed, finished_run, photographs, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(photographs, moved)
    words = [f"run={finished_run}", f"output={tmp_path / 'out'}", f"data.root={moved}", "split=val"]
    done = typed("evaluate", *words)
    assert done.returncode == 0, done.stderr
    again, before = (json.loads((f / "metrics.json").read_text())["val"] for f in (tmp_path / "out", finished_run))
    assert again["loss"] == pytest.approx(before["loss"], abs=1e-6)
    assert again["per_class"] == before["per_class"]
    for image in moved.rglob("*.png"):
        Image.new("RGB", (8, 8)).save(image)
    done = typed("evaluate", *words)
    assert done.returncode == 2
    assert "is not the image that the run was made with" in done.stderr


@pytest.mark.slow
def test_two_processes_end_as_one_run(command, small, tmp_path):
    done = command(
        "train",
        *small,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "data.batch_size=4",
        "split.val_fraction=0.25",
        "trainer.devices=2",
        f"run_dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["epochs"] == 2
    expected = pd.read_csv(tmp_path / "catalog.csv").query("split == 'test'")["path"]
    assert pd.read_csv(tmp_path / "predictions.csv")["path"].tolist() == expected.tolist()  # each once
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"
    # an odd number of images, of which two processes counted each once: as one process does for the same checkpoint
    assert len(pd.read_csv(tmp_path / "catalog.csv").query("split == 'val'")) == 9
    row = pd.read_csv(tmp_path / "metrics.csv").iloc[metrics["best_epoch"]]
    for name in ("loss", "accuracy", "precision", "recall", "f1"):
        assert row[f"val/{name}"] == pytest.approx(metrics["val"][name], abs=1e-6)
    for label, alone in metrics["val"]["per_class"].items():
        assert row[f"val/recall/{label}"] == pytest.approx(alone["recall"], abs=1e-6)
        assert row[f"val/precision/{label}"] == pytest.approx(alone["precision"], abs=1e-6)


@pytest.mark.slow
def test_a_run_is_the_same_wherever_its_pixels_are(small, tmp_path):
    words = ["trainer.max_epochs=1", "data.num_workers=0"]
    found = {}
    for cache in ("disk", "memory", "none"):
        run = tmp_path / cache
        found[cache] = train(compose("train", [*small, *words, f"data.cache={cache}", f"run_dir={run}"]))
        near_duplicates = json.loads((run / "run.json").read_text())["near_duplicates"]
        assert near_duplicates is None if cache == "none" else near_duplicates["pairs"] == 0
    assert all(result["test"] == found["disk"]["test"] for result in found.values())


def test_a_run_says_what_its_start_took_and_how_it_computes(finished_run):
    status = json.loads((finished_run / "run.json").read_text())
    assert list(status["startup"]) == ["imports", "catalog", "pixels", "leakage", "network", "first step"]
    assert all(seconds >= 0 for seconds in status["startup"].values())
    assert (status["device"], status["precision"], status["accumulate_grad_batches"]) == ("cpu", "32-true", 1)


def test_a_command_line_leaves_nothing_behind_for_what_python_calls_next(typed, tmp_path):
    assert typed("train", "model=timm", f"paths.runs={tmp_path}").returncode == 2
    assert not HydraConfig.initialized()
    assert os.environ["HYDRA_FULL_ERROR"] == "0"


def test_gradients_are_clipped_also_in_bf16(small, tmp_path):
    words = ["trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.5", "trainer.max_epochs=1"]
    results = train(compose("train", [*small, *words, f"run_dir={tmp_path / 'run'}"]))
    assert results["epochs"] == 1


@pytest.mark.slow
def test_compiled_training_learns_as_much_and_leaves_an_ordinary_checkpoint(small, tmp_path):
    results = {}
    for compiled in (False, True):
        words = [
            *small,
            "augment=none",
            "trainer.max_epochs=3",
            f"compile={compiled}",
            f"run_dir={tmp_path / str(compiled)}",
        ]
        results[compiled] = train(compose("train", words))
    for split in ("val", "test"):
        assert results[True][split]["loss"] == pytest.approx(results[False][split]["loss"], rel=0.05)
    ordinary, other = (
        torch.load(tmp_path / str(c) / "checkpoints" / "best.ckpt", weights_only=True) for c in (False, True)
    )
    assert ordinary["state_dict"].keys() == other["state_dict"].keys()
    assert ordinary["hyper_parameters"] == other["hyper_parameters"]


@pytest.mark.slow
def test_overfitting_two_batches_sees_every_class(small, tmp_path):
    train(
        compose("train", [*small, "debug=overfit", "trainer.max_epochs=10", "data.batch_size=8", f"run_dir={tmp_path}"])
    )
    history = pd.read_csv(tmp_path / "metrics.csv")
    assert history["train/loss"].iloc[-1] < history["train/loss"].iloc[0]


def test_a_run_whose_test_images_select_the_model_says_so(typed, small, tmp_path):
    done = typed("train", *small, "split=paper", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    note = "selected on the evaluation images"
    assert " ".join(done.stdout.split()).count(note) == 2  # below the images and below the results
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["note"] == note
    compared = typed("compare", f"runs={tmp_path / 'run'}")
    assert "shufflenet" in compared.stdout
    assert "Each run chose its best epoch on the test images" in " ".join(compared.stdout.split())
    audited = typed("audit", *small[:2], "split=paper", f"output={tmp_path / 'audit'}")
    assert note in audited.stdout
    assert note in (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")
