"""What model.pretrained=auto takes, that a sweep decides it once, and where it is said."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.types import RunMode
from safetensors.torch import save_file

from alu_defects.config import compose
from alu_defects.errors import UserError
from alu_defects.models import pretrained
from alu_defects.models.pretrained import NoAnswerError, Published, Shipped
from alu_defects.models.registry import create_backbone, published_weights
from alu_defects.runs import identity, resume, starting_weights
from alu_defects.runs.run import Run
from alu_defects.train import _find_unfinished, train


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Empty caches and no network; returns what was asked for."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    urls: list[str] = []

    def no_answer(url: str) -> None:
        urls.append(url)
        raise NoAnswerError("nobody")

    monkeypatch.setattr(pretrained, "_check_answer", no_answer)
    return urls


def chosen(*words: str) -> tuple[Any, dict[str, Any]]:
    config, record = starting_weights.choose(compose("train", ["model.pretrained=auto", *words]))
    return config.model.pretrained, record


def put(*words: str) -> Path:
    """A stand-in for the published weights of shufflenet, where torch.hub keeps them."""
    file = published_weights("shufflenet", width=0.5).by_hand
    file.parent.mkdir(parents=True)
    torch.save(create_backbone("shufflenet", 1000, width=0.5).state_dict(), file)
    return file


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the weights that this package ships for shufflenet."""
    file = tmp_path / "surfaces.safetensors"
    save_file(create_backbone("shufflenet", 4, width=0.5).state_dict(), file)
    monkeypatch.setitem(pretrained.SHIPPED, "shufflenet_v2_x0_5", Shipped(str(file), "MIT"))
    return file


def test_auto_takes_the_cache_then_a_download_then_the_package_then_none(
    ship: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, record = chosen("model.width=1.0")
    assert (value, record["source"]) == (False, "none")
    assert "shufflenet_v2_x1_0 cannot be loaded: nobody" in record["reason"]
    value, record = chosen("model.width=0.5")
    assert (value, record["source"], record["licence"]) == ("surfaces", "package", "MIT")
    assert "cannot be loaded" in record["reason"]
    with monkeypatch.context() as patch:
        patch.setattr(Published, "download", lambda self: ship)
        value, record = chosen("model.width=0.5")
        assert (value, record["source"], len(record["sha256"])) == (True, "download", 64)
    file = put()
    value, record = chosen("model.width=0.5")
    assert (value, record["source"], record["file"]) == (True, "cache", str(file))
    assert record["url"].startswith("https://download.pytorch.org/")
    said = starting_weights.describe(record)
    assert file.name in said
    assert "licence: not stated" in said


def test_nothing_is_looked_for_where_weights_are_given_or_none_are_wanted(asked: list[str], ship: Path) -> None:
    value, record = chosen(f"model.weights={ship}")
    assert (value, record["source"], record["name"]) == (False, "file", str(ship))
    config, record = starting_weights.choose(compose("train", []))
    assert (config.model.pretrained, record) == (False, {"source": "none"})
    assert not asked


def test_weights_that_are_not_there_are_an_error_before_images_are_read(tmp_path: Path, typed: Any) -> None:
    runs = tmp_path / "runs"
    words = ["data=folder", f"data.root={tmp_path / 'no images'}", "model.weights=base", f"paths.runs={runs}"]
    fix = "give a file (.safetensors, .pth, .pt, .ckpt) or the folder of a run"
    done = typed("train", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"error: model.weights={tmp_path / 'base'}: there is no such file; {fix}\n",
    )
    Run(runs / "base").folder.mkdir(parents=True)
    Run(runs / "base").update(status="finished")
    done = typed("train", *words, cwd=tmp_path)
    assert done.stderr.endswith(f"there is no such file; did you mean model.weights={runs / 'base'}?\n")
    assert [path.name for path in runs.iterdir()] == ["base"]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ({"source": "none"}, "of a run: first"),
        ({"source": "run", "licence": None}, "of a run: first"),
        ({"source": "file"}, "of a run: first; licence: not stated"),
        ({"source": "cache", "licence": "MIT"}, "of a run: first; licence: MIT"),
    ],
)
def test_a_run_that_was_trained_from_scratch_has_no_licence(tmp_path: Path, before: Any, said: str) -> None:
    run = Run(tmp_path / "first")
    run.checkpoints.mkdir(parents=True)
    run.weights.write_bytes(b"")
    run.update(weights=before)
    _, record = chosen("model.pretrained=false", f"model.weights={run.weights}")
    assert starting_weights.describe(record) == said


def test_true_and_surfaces_that_cannot_be_had_are_errors() -> None:
    with pytest.raises(NoAnswerError, match="put the file here as"):
        chosen("model.pretrained=true")
    with pytest.raises(UserError, match="no such weights for shufflenet_v2_x1_0, only for: no network yet"):
        chosen("model.pretrained=surfaces")


def test_a_sweep_decides_once(tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = SimpleNamespace(mode=RunMode.MULTIRUN, sweep=SimpleNamespace(dir=str(tmp_path / "sweep")))
    hydra = SimpleNamespace(initialized=lambda: True, get=lambda: sweep)
    first, second = [], []
    with monkeypatch.context() as patch:
        patch.setattr(starting_weights, "HydraConfig", hydra)
        for _ in range(2):
            first.append(chosen("model.width=0.5"))
            second.append(chosen("model=inceptionv4"))
            if not first[1:]:
                put()  # appears while the sweep runs
    assert first[0] == first[1]
    assert first[0][1]["source"] == "none"
    assert second[0] == second[1]
    assert "no network, as another job of this sweep found" in second[0][1]["reason"]
    assert len(asked) == 1
    names = {published_weights("shufflenet", width=0.5).name, published_weights("inceptionv4").name}
    assert set(json.loads((tmp_path / "sweep" / "pretrained.json").read_text())) == names


def test_two_weights_of_one_network_are_chosen_each_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = SimpleNamespace(mode=RunMode.MULTIRUN, sweep=SimpleNamespace(dir=str(tmp_path / "sweep")))
    hydra = SimpleNamespace(initialized=lambda: True, get=lambda: sweep)
    monkeypatch.setattr(starting_weights, "HydraConfig", hydra)
    there = published_weights("timm/resnet18.tv_in1k")
    there.by_hand.parent.mkdir(parents=True)
    there.by_hand.write_bytes(b"tensors")
    for name, source in (("tv_in1k", "cache"), ("a1_in1k", "none"), ("tv_in1k", "cache")):
        _, record = chosen("model=timm", f"model.name=timm/resnet18.{name}")
        assert record["source"] == source


def test_an_unfinished_run_is_found_whatever_was_chosen_for_it(tmp_path: Path) -> None:
    words = ["model.width=0.5", "model.pretrained=auto", f"paths.runs={tmp_path}", f"run_dir={tmp_path / 'run'}"]
    config, record = starting_weights.choose(compose("train", words))
    Run.create(tmp_path / "run", config, words, weights=record, **identity.run_identity(config)).update(status="failed")
    put()  # the network has come back
    found = _find_unfinished(compose("train", [*words, "resume=auto"]))
    assert found is not None
    assert found.folder == tmp_path / "run"


def test_what_was_chosen_is_in_the_identity(ship: Path) -> None:
    def settings() -> str:
        config, _ = starting_weights.choose(compose("train", ["model.pretrained=auto", "model.width=0.5"]))
        return identity.run_identity(config)["settings"]

    digests = [settings()]
    ship.write_bytes(ship.read_bytes() + b" ")
    digests.append(settings())
    put()
    digests.append(settings())
    same = identity.run_identity(compose("train", ["model.pretrained=true", "model.width=0.5"]))["settings"]
    assert digests[2] == same
    assert len(set(digests)) == 3


def test_resuming_words_may_leave_the_choice_to_the_run(tmp_path: Path) -> None:
    config, _ = starting_weights.choose(compose("train", ["model.pretrained=auto", f"run_dir={tmp_path / 'run'}"]))
    run = Run.create(tmp_path / "run", config, ["model.pretrained=false"])
    assert resume.changing_overrides(run, ["model.pretrained=auto"]) == []
    assert resume.changing_overrides(run, ["model.pretrained=true"]) == ["model.pretrained=true"]


def test_finetuning_says_what_it_started_from(
    small: list[str],
    tmp_path: Path,
    photographs: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From published weights, then from that run with attention and other classes."""
    file, few = put(), tmp_path / "two classes"
    few.mkdir()
    for label in ("across", "plain"):
        (few / label).symlink_to(photographs / label)
    words = ["experiment=finetune", *small[1:], "trainer.max_epochs=3", f"paths.runs={tmp_path}"]
    with caplog.at_level("INFO", logger="alu_defects"):
        train(compose("train", [*words, f"run_dir={tmp_path / 'first'}"]))
        record = Run(tmp_path / "first").status()["weights"]
        assert (record["source"], record["file"], record["loaded"]) == ("cache", str(file), "new: its classifier")
        assert f"Starting weights: published: {file.name}, from the cache; licence: not stated" in caplog.text
        assert f"starting weights: published: {file.name}" in capsys.readouterr().out
        caplog.clear()
        more = [f"model.weights={tmp_path / 'first'}", "model.attention=scse", f"data.root={few}"]
        train(compose("train", [*words, *more, f"run_dir={tmp_path / 'second'}"]))
    record = Run(tmp_path / "second").status()["weights"]
    assert (record["source"], record["name"]) == ("run", "first")
    assert record["licence"].startswith("not stated")
    assert "for other classes (across, along, plain, not across, plain)" in record["loaded"]
    assert "it has no attention" in record["loaded"]
    assert record["loaded"] in caplog.text


def test_a_wrong_word_is_an_error_with_the_words_there_are(typed: Any) -> None:
    done = typed("train", "model.pretrained=imagenet")
    assert done.returncode == 2
    assert "model.pretrained=imagenet does not exist. There are: true, false, auto, surfaces" in done.stderr


def test_images_that_the_starting_run_trained_on_are_told(small: list[str], finished_run: Path, tmp_path: Path) -> None:
    words = [*small, "model.width=0.5", f"model.weights={finished_run}", "trainer.max_epochs=1"]
    train(compose("train", [*words, f"run_dir={tmp_path / 'same'}"]))
    assert not any("training images of the run" in note for note in Run(tmp_path / "same").status()["split_notes"])
    train(compose("train", [*words, "split.seed=7", f"run_dir={tmp_path / 'other'}"]))
    (note,) = (n for n in Run(tmp_path / "other").status()["split_notes"] if "training images of the run" in n)
    assert "scores are too good. Take the split of that run: split=file" in note
    assert note in Run(tmp_path / "other").metrics()["note"]
