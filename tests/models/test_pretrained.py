"""Where published weights are looked for; small stand-ins, through the loading code of timm and torchvision."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from alu_defects.errors import UserError
from alu_defects.models import pretrained
from alu_defects.models.pretrained import NoAnswerError, Published, Shipped, fetch
from alu_defects.models.registry import create_backbone, published_weights


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # where nobody answers
    return tmp_path


def put_into_hub_cache(folder: Path, hub_id: str, state: dict[str, Any]) -> Path:
    """A file as huggingface_hub keeps it."""
    repository = folder / "hf" / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(state, snapshot / "model.safetensors")
    return snapshot / "model.safetensors"


@pytest.mark.parametrize(
    ("name", "size", "hub_id"),
    [
        ("timm/mobilenetv4_conv_medium", 64, "timm/mobilenetv4_conv_medium.e500_r256_in1k"),
        ("timm/convnext_tiny", 64, "timm/convnext_tiny.in12k_ft_in1k"),
        ("timm/vit_small_patch14_dinov2.lvd142m", 56, "timm/vit_small_patch14_dinov2.lvd142m"),
    ],
)
def test_recipes_load_published_weights_from_the_cache(caches: Path, name: str, size: int, hub_id: str) -> None:
    published = published_weights(name)
    assert (published.hub_id, published.licence) == (hub_id, "apache-2.0")
    stand_in = timm.create_model(name.removeprefix("timm/"), num_classes=published.classes)
    file = put_into_hub_cache(caches, hub_id, stand_in.state_dict())
    assert fetch(published) == (file, "cache")
    model = create_backbone(name, 3, image_size=size, pretrained=True)
    own, theirs = model.state_dict(), stand_in.state_dict()
    resized = {"pos_embed"}  # for the size of the images
    assert all(
        torch.equal(own[k], theirs[k])
        for k in own.keys() & theirs.keys() - resized
        if not k.startswith(("head.", "classifier."))
    )
    assert model.loaded == "new: its classifier"
    assert model.get_classifier().out_features == 3  # type: ignore[union-attr]
    assert model(torch.rand(2, 3, size, size)).shape == (2, 3)


@pytest.mark.parametrize("name", ["xception", "inceptionv4_cse", "shufflenet", "timm/resnet18"])
def test_file_may_be_put_by_hand(name: str) -> None:
    published = published_weights(name)
    assert published.cached() is None
    published.by_hand.parent.mkdir(parents=True)
    published.by_hand.touch()
    assert fetch(published) == (published.by_hand, "cache")


def test_url_is_downloaded_once(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"x")
    published = Published("net", url=(tmp_path / "net.pth").as_uri())
    assert fetch(published) == (published.by_hand, "download")
    assert fetch(published) == (published.by_hand, "cache")


def test_download_with_another_hash_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "net-0123abcd.pth").write_bytes(b"x")
    published = Published("net", url=(tmp_path / "net-0123abcd.pth").as_uri())
    with pytest.raises(UserError, match="invalid hash value"):
        fetch(published)
    assert published.cached() is None


def test_damaged_file_in_the_cache_is_named() -> None:
    for name in ("shufflenet", "timm/resnet18"):
        file = published_weights(name).by_hand
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half a file")
        with pytest.raises(UserError, match=file.name):
            create_backbone(name, 3, pretrained=True)


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/net.pth"


def test_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "SECONDS", 0.3)
    with silent_server() as url:
        started = time.monotonic()
        with pytest.raises(NoAnswerError, match=r"no answer within 0\.3 s|timed out"):
            fetch(Published("net", url=url))
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("name", ["shufflenet", "inceptionv4_scse", "xception", "timm/resnet18"])
def test_missing_network_is_an_error_with_the_fix(name: str) -> None:
    with pytest.raises(NoAnswerError) as caught:
        create_backbone(name, 11, pretrained=True)
    published = published_weights(name)
    for part in (published.network, published.address, str(published.by_hand), "model.weights=<file>"):
        assert part in str(caught.value)


def test_offline_mode_of_the_hub_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NoAnswerError, match="HF_HUB_OFFLINE is set"):
        fetch(published_weights("timm/resnet18"))


def test_network_without_published_weights_is_an_error() -> None:
    with pytest.raises(UserError, match="no weights of botnet50ts_256 are published"):
        create_backbone("timm/botnet50ts_256", 3, pretrained=True)


def test_weights_of_this_package_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {key: value.half() for key, value in create_backbone("shufflenet", 5, width=0.5).state_dict().items()}
    save_file({key: value for key, value in state.items() if not key.startswith("fc.")}, tmp_path / "a.safetensors")
    monkeypatch.setitem(pretrained.SHIPPED, "shufflenet_v2_x0_5", Shipped(str(tmp_path / "a.safetensors"), "MIT"))
    model = create_backbone("shufflenet", 3, width=0.5, attention="cse", pretrained="surfaces")
    own = model.state_dict()
    assert all(
        torch.equal(own[key], state[key].float()) for key in state if key.endswith("weight") and "fc." not in key
    )
    assert "the new one is trained from scratch; it has no attention" in model.loaded
    with pytest.raises(UserError, match=r"no such weights for shufflenet_v2_x1_0, only for: shufflenet_v2_x0_5\. Give"):
        create_backbone("shufflenet", 3, pretrained="surfaces")


def test_auto_is_not_for_a_single_network() -> None:
    with pytest.raises(UserError, match="pretrained=auto is not true, false or surfaces"):
        create_backbone("shufflenet", 3, pretrained="auto")
