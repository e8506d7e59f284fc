"""A checkpoint alone is enough to rebuild the classifier, and cannot run anything."""

import os
import pickle
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import save_file

from alu_defects.errors import UserError
from alu_defects.signals import Interrupted, interrupting
from alu_defects.training import checkpoint
from alu_defects.training.module import Classifier

OPTIONS: dict[str, Any] = {
    "model": {"name": "shufflenet", "width": 0.5},
    "classes": ["正常", "pit, small"],
    "class_counts": [30, 10],
    "image_size": (32, 32),
    "loss": {
        "_target_": "alu_defects.training.losses.Focal",
        "class_weights": "balanced",
        "label_smoothing": 0.1,
        "gamma": 1.5,
    },
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9},
    "scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "interval": "epoch"},
}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(**OPTIONS).eval()


@pytest.fixture(scope="module")
def saved(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    classifier.about = checkpoint.describe_model(classifier, "squash", 12, {"torch": "2"}, "hash")
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
        default_root_dir=folder,
        plugins=[checkpoint.AtomicIO()],
    )
    trainer.strategy.connect(classifier)
    classifier.trainer = trainer
    trainer.save_checkpoint(folder / "best.ckpt")
    return folder / "best.ckpt"


def test_hyper_parameters_are_loaded_with_weights_only(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert content["hyper_parameters"] == OPTIONS
    assert {name: type(value) for name, value in content["hyper_parameters"].items()} == {
        name: type(value) for name, value in OPTIONS.items()
    }


def test_loaded_classifier_gives_the_same_logits(classifier: Classifier, saved: Path) -> None:
    loaded = checkpoint.load_classifier(saved)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert not loaded.training
    assert loaded.classes == OPTIONS["classes"]
    with torch.no_grad():
        assert torch.equal(loaded(images), classifier(images))
        torch.testing.assert_close(loaded(images.float() / 255), classifier(images))


def test_loading_downloads_no_weights(tmp_path: Path, saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    content["hyper_parameters"]["model"] |= {
        "pretrained": True,
        "weights": "/no/such/file.pth",
    }  # they exclude each other
    torch.save(content, tmp_path / "x.ckpt")
    assert checkpoint.load_classifier(tmp_path / "x.ckpt").classes == OPTIONS["classes"]


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_checkpoint_with_code_is_an_error_and_runs_nothing(tmp_path: Path, how: str) -> None:
    path, marker = tmp_path / "best.ckpt", tmp_path / "ran"
    content = {"state_dict": {}, "hyper_parameters": {"model": Malicious(marker)}}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=r"best\.ckpt is not a checkpoint that can be loaded safely"):
        checkpoint.read_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError):  # the way of Lightning, whatever it asks for
        checkpoint.AtomicIO().load_checkpoint(path, weights_only=False)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malicious(marker)))  # it would have run
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_damaged_checkpoint_is_named(tmp_path: Path, saved: Path) -> None:
    whole, path = saved.read_bytes(), tmp_path / "best.ckpt"
    rng = np.random.default_rng(0)
    noise = [(b"\x80\x02" if n % 2 else b"") + rng.bytes(30) for n in range(200)]
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2], whole[:-10], *noise):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"best\.ckpt is not a checkpoint that can be loaded safely: \S"):
            checkpoint.read_checkpoint(path)


def test_missing_and_foreign_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"best\.ckpt does not exist"):
        checkpoint.load_classifier(tmp_path / "best.ckpt")
    others = [{"weight": torch.zeros(2)}, torch.zeros(2), {"state_dict": {}, "hyper_parameters": {"lr": 0.1}}]
    for content in others:
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(UserError, match=r"other\.ckpt is not a checkpoint of alu_defects.train"):
            checkpoint.load_classifier(tmp_path / "other.ckpt")


@pytest.mark.parametrize("classes", [["pit, small", "正常"], ["正常"], ["正常", "pit, small", "dent"]])
def test_other_classes_or_another_order_are_errors(saved: Path, classes: list[str]) -> None:
    checkpoint.check_classes(saved, OPTIONS["classes"])
    with pytest.raises(
        UserError, match=f"was trained on the classes 正常, pit, small; the data have {', '.join(classes)}"
    ):
        checkpoint.check_classes(saved, classes)


def test_checkpoint_has_the_description_of_the_model(saved: Path) -> None:
    about = checkpoint.load_classifier(saved).about
    assert about == {
        "resize": "squash",
        "bits": 12,
        "mean": pytest.approx([0.485, 0.456, 0.406]),
        "std": pytest.approx([0.229, 0.224, 0.225]),
        "packages": {"torch": "2"},
        "data_hash": "hash",
    }
    assert torch.load(saved, weights_only=True)["about"] == about


def test_safetensors_give_the_same_classifier(saved: Path, tmp_path: Path) -> None:
    classifier, path = checkpoint.load_classifier(saved), tmp_path / "model.safetensors"
    checkpoint.save_weights(classifier, path)
    loaded = checkpoint.load_classifier(path)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert (loaded.classes, loaded.about) == (OPTIONS["classes"], classifier.about)
    assert dict(loaded.hparams) == dict(classifier.hparams)
    with torch.no_grad():
        assert torch.equal(loaded(images), classifier(images))
    for file in (path, saved):  # as model.weights=… of another run does
        start = Classifier(**{**OPTIONS, "model": {**OPTIONS["model"], "weights": str(file)}}).backbone.state_dict()
        assert all(torch.equal(start[name], value) for name, value in classifier.backbone.state_dict().items())


def test_damaged_and_foreign_safetensors_are_named(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save_weights(checkpoint.load_classifier(saved), path)
    whole = path.read_bytes()
    for content in (b"", b"no weights", whole[:1000], whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.safetensors cannot be read as the weights of a network: \S"):
            checkpoint.load_classifier(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"model\.safetensors was not written by alu_defects\.train"):
        checkpoint.load_classifier(path)
    with pytest.raises(UserError, match=r"none\.safetensors"):
        checkpoint.load_classifier(tmp_path / "none.safetensors")


def test_full_disk_leaves_the_previous_checkpoint(saved: Path, tmp_path: Path) -> None:
    path, content = tmp_path / "last.ckpt", torch.load(saved, weights_only=True)
    checkpoint.AtomicIO().save_checkpoint(content, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in (100, len(before) // 2, len(before) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(UserError, match=r"last\.ckpt cannot be written \(File too large\)"):
                checkpoint.AtomicIO().save_checkpoint(content, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
    signal.signal(signal.SIGXFSZ, ignored)


def test_signal_during_write_leaves_the_previous_checkpoint(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content = tmp_path / "last.ckpt", torch.load(saved, weights_only=True)
    checkpoint.AtomicIO().save_checkpoint(content, path)
    before = path.read_bytes()
    save = checkpoint._save
    monkeypatch.setattr(checkpoint, "_save", lambda what, file: save(what, Killing(file)))  # type: ignore[arg-type]
    with pytest.raises(Interrupted), interrupting():
        checkpoint.AtomicIO().save_checkpoint(content, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Killing:
    """A file whose writer gets a signal."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, content: Any) -> int:
        if len(content) > 10_000:
            os.kill(os.getpid(), signal.SIGTERM)
        return int(self.file.write(content))


def test_network_for_one_image_size_is_loaded(tmp_path: Path) -> None:
    model = {"name": "timm/vit_tiny_patch16_224", "depth": 1}
    classifier = Classifier(**{**OPTIONS, "model": model, "image_size": 96}).eval()
    checkpoint.save_weights(classifier, tmp_path / "model.safetensors")
    content = {"state_dict": classifier.state_dict(), "hyper_parameters": dict(classifier.hparams), "about": {}}
    torch.save(content, tmp_path / "best.ckpt")
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        for name in ("model.safetensors", "best.ckpt"):
            assert torch.equal(checkpoint.load_classifier(tmp_path / name)(images), classifier(images))
