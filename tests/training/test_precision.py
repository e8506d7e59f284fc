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
def test_heavy_networks_alone_gain_from_bf16_on_a_processor_that_has_it(name: str, expected: str) -> None:
    with torch.device("meta"):
        network = registry.create_backbone(name, 11)
    assert trainer.choose_precision(network, "cpu") == expected


def test_a_processor_that_would_have_to_emulate_bf16_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert trainer.choose_precision(torch.nn.Linear(4096, 4096), "cpu") == "32-true"


@pytest.mark.usefixtures("native")
def test_a_gpu_is_asked_whether_it_has_bf16_and_no_other_device_is_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_products_are_those_of_an_output_value() -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(8, 4, 3), torch.nn.Conv2d(4, 4, 3, groups=4), torch.nn.Linear(30, 2))
    assert trainer.mean_products(layers) == (72 + 9 + 30) / 3
    assert trainer.mean_products(torch.nn.ReLU()) == 0


@pytest.mark.parametrize("asked", ["bf16-true", "16-true", "64-true", "transformer-engine", "float7"])
def test_a_precision_that_cannot_be_trained_in_is_refused(asked: str) -> None:
    with pytest.raises(UserError, match=f"trainer.precision={asked} is not supported. There are: auto, 32-true"):
        trainer.check_precision(asked)


def test_what_is_short_for_a_supported_precision_is_taken() -> None:
    for asked in (*trainer.PRECISIONS, 32, "32", 16, "bf16"):
        trainer.check_precision(asked)


@pytest.mark.usefixtures("native")
def test_the_kind_of_device_is_told_with_bf16_only_where_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.CUDAAccelerator, "is_available", lambda: False)
    monkeypatch.setattr(trainer.MPSAccelerator, "is_available", lambda: False)
    assert trainer.computes_on("auto", "auto") == "cpu with bf16"
    assert trainer.computes_on("cpu", "32-true") == "cpu"
    monkeypatch.setattr(trainer.CUDAAccelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert trainer.computes_on("auto", "auto") == "cuda"
    assert trainer.computes_on("cpu", "auto") == "cpu with bf16"
