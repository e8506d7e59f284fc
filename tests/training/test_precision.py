"""bf16 where it pays, by a rule that was measured on three networks."""

import pytest
import torch

from alu_defects.errors import UserError
from alu_defects.models import registry
from alu_defects.training import trainer


@pytest.fixture(params=["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has bf16."""
    monkeypatch.setattr(torch.cpu, request.param, lambda: True)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("name", "expected"),
    [("inceptionv4_scse", "bf16-mixed"), ("xception", "bf16-mixed"), ("shufflenet", "32-true")],
)
def test_auto_precision_on_a_cpu_with_bf16_is_bf16_for_heavy_networks_only(name: str, expected: str) -> None:
    with torch.device("meta"):
        network = registry.create_backbone(name, 11)
    assert trainer.choose_precision(network, "cpu") == expected


def test_auto_precision_on_a_cpu_without_bf16_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert trainer.choose_precision(torch.nn.Linear(4096, 4096), "cpu") == "32-true"


@pytest.mark.usefixtures("native")
def test_auto_precision_on_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Linear(4096, 4096)
    assert trainer.choose_precision(network, "cpu") == "bf16-mixed"
    assert trainer.choose_precision(network, "mps") == "32-true"
    monkeypatch.setattr(trainer.CUDAAccelerator, "is_available", lambda: True)
    for has, expected in ((True, "bf16-mixed"), (False, "32-true")):
        # emulated, it is always there
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: including_emulation or has
        )
        assert trainer.choose_precision(torch.nn.Linear(2, 2), "auto") == expected


def test_mean_products_by_hand() -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(8, 4, 3), torch.nn.Conv2d(4, 4, 3, groups=4), torch.nn.Linear(30, 2))
    assert trainer.mean_products(layers) == (72 + 9 + 30) / 3
    assert trainer.mean_products(torch.nn.ReLU()) == 0


@pytest.mark.parametrize("asked", ["bf16-true", "16-true", "64-true", "transformer-engine", "float7"])
def test_unsupported_precision_is_an_error(asked: str) -> None:
    with pytest.raises(UserError, match=f"trainer.precision={asked} is not supported. There are: auto, 32-true"):
        trainer.check_precision(asked)


def test_short_names_of_precisions_are_supported() -> None:
    for asked in (*trainer.PRECISIONS, 32, "32", 16, "bf16"):
        trainer.check_precision(asked)


@pytest.mark.usefixtures("native")
def test_computes_on_mentions_bf16_only_for_auto_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.CUDAAccelerator, "is_available", lambda: False)
    monkeypatch.setattr(trainer.MPSAccelerator, "is_available", lambda: False)
    assert trainer.computes_on("auto", "auto") == "cpu with bf16"
    assert trainer.computes_on("cpu", "32-true") == "cpu"
    monkeypatch.setattr(trainer.CUDAAccelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert trainer.computes_on("auto", "auto") == "cuda"
    assert trainer.computes_on("cpu", "auto") == "cpu with bf16"
