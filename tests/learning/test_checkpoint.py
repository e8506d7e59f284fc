"""A checkpoint alone is enough to rebuild the classifier, and cannot run anything."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from alu_defects.errors import UserError
from alu_defects.learning import checkpoint
from alu_defects.learning.module import Classifier

OPTIONS: dict[str, Any] = {
    "model": {"name": "shufflenet", "width": 0.5},
    "classes": ["正常", "pit, small"],
    "class_counts": [30, 10],
    "image_size": 32,
    "loss": {"name": "focal", "class_weights": "balanced", "label_smoothing": 0.1, "gamma": 1.5},
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9},
    "scheduler": {"name": "cosine", "warmup_epochs": 1.0, "final_fraction": 0.0},
}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(**OPTIONS).eval()


@pytest.fixture(scope="module")
def saved(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    trainer = Trainer(accelerator="cpu", logger=False, enable_model_summary=False, default_root_dir=folder)
    trainer.strategy.connect(classifier)
    trainer.save_checkpoint(folder / "best.ckpt")
    return folder / "best.ckpt"


def test_hyper_parameters_come_back_as_they_were_under_weights_only(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert content["hyper_parameters"] == OPTIONS
    assert {name: type(value) for name, value in content["hyper_parameters"].items()} == {
        name: type(value) for name, value in OPTIONS.items()
    }


def test_the_loaded_classifier_gives_the_same_logits(classifier: Classifier, saved: Path) -> None:
    loaded = checkpoint.load(saved)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert not loaded.training
    assert loaded.classes == OPTIONS["classes"]
    with torch.no_grad():
        assert torch.equal(loaded(images), classifier(images))
        torch.testing.assert_close(loaded(images.float() / 255), classifier(images))


def test_no_weights_are_fetched_anew_when_loading(tmp_path: Path, saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    content["hyper_parameters"]["model"] |= {
        "pretrained": True,
        "weights": "/no/such/file.pth",
    }  # they exclude each other
    torch.save(content, tmp_path / "x.ckpt")
    assert checkpoint.load(tmp_path / "x.ckpt").classes == OPTIONS["classes"]


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, how: str) -> None:
    path, marker = tmp_path / "best.ckpt", tmp_path / "ran"
    content = {"state_dict": {}, "hyper_parameters": {"model": Malicious(marker)}}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=r"best\.ckpt is not a checkpoint that can be loaded safely"):
        checkpoint.read(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malicious(marker)))  # it would have run
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_damaged_file_is_named(tmp_path: Path, saved: Path) -> None:
    whole, path = saved.read_bytes(), tmp_path / "best.ckpt"
    rng = np.random.default_rng(0)
    noise = [(b"\x80\x02" if n % 2 else b"") + rng.bytes(30) for n in range(200)]
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2], whole[:-10], *noise):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"best\.ckpt is not a checkpoint that can be loaded safely: \S"):
            checkpoint.read(path)


def test_a_file_that_is_missing_or_of_another_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"best\.ckpt does not exist"):
        checkpoint.load(tmp_path / "best.ckpt")
    others = [{"weight": torch.zeros(2)}, torch.zeros(2), {"state_dict": {}, "hyper_parameters": {"lr": 0.1}}]
    for content in others:
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(UserError, match=r"other\.ckpt is not a checkpoint of alu_defects.train"):
            checkpoint.load(tmp_path / "other.ckpt")


@pytest.mark.parametrize("classes", [["pit, small", "正常"], ["正常"], ["正常", "pit, small", "dent"]])
def test_classes_that_differ_also_in_their_order_are_refused(saved: Path, classes: list[str]) -> None:
    checkpoint.check_classes(saved, OPTIONS["classes"])
    with pytest.raises(
        UserError, match=f"was trained on the classes 正常, pit, small; the data have {', '.join(classes)}"
    ):
        checkpoint.check_classes(saved, classes)
