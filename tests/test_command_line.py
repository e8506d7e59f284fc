import json
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image


def test_help_and_cfg_answer_at_once(command):
    for words in (["--help"], ["--cfg", "job"]):
        started = time.perf_counter()
        done = command("train", *words)
        assert done.returncode == 0
        assert "inceptionv4_scse" in done.stdout or "shufflenet" in done.stdout
        assert time.perf_counter() - started < 1.5


@pytest.mark.parametrize(
    ("overrides", "wrong", "mend"),
    [
        (["model=inceptionv4_sce"], "model=inceptionv4_sce", "inceptionv4_scse"),
        (["modle=xception"], "modle", "model"),
        (["optimizer.lrr=1"], "optimizer.lrr", "optimizer.lr"),
        (["trainer.max_epoch=1"], "trainer.max_epoch", "trainer.max_epochs"),
        (["seed=abc"], "seed=abc", "a whole number"),
        (["optimizer.lr=fast"], "optimizer.lr=fast", "a number"),
        (["augment.vertical_flip=3"], "augment.vertical_flip=3", "true or false"),
        (["data=folder"], "data.root", "data.root=…"),
        (["data=folder", "data.root=/no/such/folder"], "/no/such/folder", "is not a folder"),
        (["data.source=foldr"], "data.source=foldr", "folder"),
        (["loss.name=focall"], "loss.name=focall", "focal"),
        (["scheduler.name=cosin"], "scheduler.name=cosin", "cosine"),
        (["model=timm", "model.name=timm/resnet81"], "resnet81", "resnet18"),
        (["model=inceptionv4", "data.image_size=74"], "data.image_size=74", "75"),
        (["optimizer._target_=os.system"], "os.system", "torch.optim."),
        (["trainer=gpu"], "trainer.accelerator=gpu", "trainer=auto"),
        (["model.weights=/no/such.pth"], "/no/such.pth", ""),
        (["resume=/no/such/run"], "/no/such/run", "run folder"),
    ],
)
def test_wrong_input_names_the_value_and_the_mend_without_traceback(command, tmp_path, overrides, wrong, mend):
    done = command(
        "train",
        f"paths.runs={tmp_path}",
        f"paths.cache={tmp_path}",
        "data.pictures_per_class=5" if not any(o.startswith("data=") for o in overrides) else "seed=0",
        *overrides,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    message = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert wrong in message
    assert mend in message


def test_a_broken_picture_is_named(command, small, photographs, tmp_path):
    root = tmp_path / "data"
    for label in ("good", "bad"):
        (root / label).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (40, 40)).save(root / label / f"{number}.png")
    (root / "bad" / "3.png").write_bytes(b"not a picture")
    done = command("train", *small, f"data.root={root}", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert str(root / "bad" / "3.png") in done.stderr
    assert "Traceback" not in done.stderr
    status = json.loads((tmp_path / "run" / "run.json").read_text())
    assert status["status"] == "failed"
    assert "3.png" in status["error"]


def test_a_run_folder_holds_everything(finished_run):
    files = {path.relative_to(finished_run).as_posix() for path in finished_run.rglob("*") if path.is_file()}
    assert files >= {
        "config.yaml",
        "run.json",
        "catalog.csv",
        "metrics.json",
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


def test_a_sweep_ends_with_one_table(sweep):
    table = pd.read_csv(sweep / "comparison.csv")
    assert len(table) == 2
    assert set(table["status"]) == {"finished"}
    for row in table.to_dict("records"):
        metrics = json.loads((sweep / row["run"] / "metrics.json").read_text())
        assert row["accuracy"] == pytest.approx(metrics["test"]["accuracy"])
        assert row["recall/along"] == pytest.approx(metrics["test"]["per_class"]["along"]["recall"])


def test_a_failed_job_does_not_stop_the_others(command, small, tmp_path):
    rest = [o for o in small if not o.startswith("data.image_size")]
    done = command(
        "train",
        "-m",
        "data.image_size=16,32",
        *rest,
        "model.width=0.5",
        f"paths.runs={tmp_path}",
        "trainer.max_epochs=1",
        "optimizer.lr=0.001,-1",
    )
    assert done.returncode == 1
    assert "failed jobs" in done.stderr
    (sweep,) = tmp_path.iterdir()
    assert sorted(pd.read_csv(sweep / "comparison.csv")["status"]) == ["failed", "failed", "finished", "finished"]


def test_evaluate_recomputes_what_training_wrote(command, finished_run, tmp_path):
    done = command("evaluate", f"run={finished_run}", f"output={tmp_path}", "trainer=cpu", "split=test")
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "metrics.json").read_text())["test"]
    before = json.loads((finished_run / "metrics.json").read_text())["test"]
    for name in ("loss", "accuracy", "precision", "recall", "f1"):
        assert again[name] == pytest.approx(before[name], abs=1e-6)
    first, second = (pd.read_csv(folder / "predictions.csv") for folder in (finished_run, tmp_path))
    pd.testing.assert_frame_equal(first, second, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run=/no/such/run"], "not a run folder"),
        (["split=train"], "split=train"),
        (["data.root=/no/such/folder"], "/no/such/folder"),
        ([], "run is not given"),
    ],
)
def test_evaluate_says_what_is_wrong(command, finished_run, overrides, message):
    words = [*([f"run={finished_run}"] if overrides and not overrides[0].startswith("run=") else []), *overrides]
    done = command("evaluate", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_resume_goes_on_after_the_last_epoch(command, small, tmp_path):
    """An interrupted run is a finished one whose last epochs are taken away."""
    run = tmp_path / "run"
    stop = "+callbacks.stop={_target_: lightning.pytorch.callbacks.Timer, duration: {seconds: 0}}"
    done = command("train", *small, f"run_dir={run}", "trainer.max_epochs=3", stop)
    assert done.returncode == 0, done.stderr
    status = json.loads((run / "run.json").read_text())
    assert len(pd.read_csv(run / "metrics.csv")) < 3
    (run / "run.json").write_text(json.dumps({**status, "status": "interrupted"}))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config[: config.index("  stop:")] + config[config.index("paths:") :])
    refused = command("train", f"resume={run}", "optimizer.lr=1")
    assert refused.returncode == 2
    assert "optimizer.lr=1" in refused.stderr
    done = command("train", f"resume={run}")
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(run / "metrics.csv")["epoch"].tolist() == [0, 1, 2]
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    again = command("train", f"resume={run}")
    assert again.returncode == 2
    assert "has finished" in again.stderr


def test_every_choice_of_the_configuration_composes(command):
    conf = Path(__file__).parents[1] / "conf"
    import hydra

    import alu_defects.config

    with hydra.initialize_config_dir(str(alu_defects.config.conf_dir()), version_base="1.3"):
        for group in ("model", "data", "augment", "loss", "optimizer", "scheduler", "trainer", "experiment", "debug"):
            for file in (conf / group).glob("*.yaml"):
                if file.stem != "base":
                    hydra.compose("train", [f"{group}={file.stem}"])
