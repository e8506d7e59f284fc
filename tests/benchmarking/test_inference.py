from functools import cache

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from alu_defects.benchmarking import inference
from alu_defects.config import compose
from alu_defects.errors import UserError
from alu_defects.models import registry
from alu_defects.models.backbone import multiply_adds

NARROW = {"narrow": {"name": "shufflenet", "width": 0.5, "learning_rate": 0.1, "steps": 3}}


@cache
def fast():
    words = ["what=infer", "trainer=cpu", "trainer.enable_progress_bar=false", "repeats=2", "seconds=0.001"]
    return compose("benchmark", [*words, "image_sizes=[32]", "batch_sizes=[1,2]"])


def config(**settings):
    return OmegaConf.merge(fast(), settings)


@pytest.fixture(scope="module")
def tables():
    return {table.title: table.rows for table in inference.measure(config(), NARROW)}


def test_networks_have_their_parameters_and_operations(tables):
    (row,) = tables["networks"]
    assert row["network"] == "narrow"
    network = registry.create_backbone("shufflenet", 11, width=0.5)
    assert row["parameters (M)"] == pytest.approx(sum(p.numel() for p in network.parameters()) / 1e6)
    assert 0 < row["GMACs"] < 0.01


def test_operations_are_the_published_ones():
    network = registry.create_backbone("shufflenet", 1000)
    assert multiply_adds(network, (224, 224)) == pytest.approx(146e6, rel=0.01)  # Ma et al. 2018
    assert network.training
    assert multiply_adds(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 10)), (4, 4)) == 480


def test_one_image_gives_the_latency_and_batches_the_throughput(tables):
    latency, throughput = tables["latency of one image on cpu"], tables["throughput on cpu"]
    for rows in (latency, throughput):
        assert [row["variant"] for row in rows] == ["eager", "channels_last", "bf16"]
        assert rows[0]["× eager"].low == rows[0]["× eager"].high == 1
        assert all(row["first call (s)"] > 0 for row in rows)
    for row in latency:
        p50 = row["p50 (ms)"]
        assert 0 < p50.low <= p50.median <= p50.high
        assert row["p95 (ms)"] >= p50.low
    assert [row["batch"] for row in throughput] == [2, 2, 2]
    eager, fast = throughput[0]["img/s"], throughput[1]["img/s"]
    assert throughput[1]["× eager"].high <= fast.high / eager.low + 1e-9


def test_a_network_for_one_image_size_is_made_for_each():
    vit = {"vit": {"name": "timm/vit_tiny_patch16_224", "depth": 1}}
    tables = inference.measure(config(image_sizes=[32, [48, 64]], batch_sizes=[1], repeats=1), vit)
    assert [row["pixels"] for row in tables[0].rows] == ["32", "[48,64]"]
    assert tables[0].rows[0]["GMACs"] < tables[0].rows[1]["GMACs"]
    assert {row["pixels"] for row in tables[1].rows} == {"32", "[48,64]"}


def test_compiled_variants_come_when_asked_for(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: module)  # the real one takes a minute
    monkeypatch.setattr(inference.trainer, "native_bf16", lambda device_type: True)
    _, latency = inference.measure(config(compile=True, batch_sizes=[1]), NARROW)
    assert [row["variant"] for row in latency.rows] == ["eager", "channels_last", "bf16", "compiled", "compiled bf16"]


def test_all_variants_answer_alike():
    network = registry.create_backbone("shufflenet", 11, width=0.5).eval()
    with torch.inference_mode():
        answers = [task() for task in inference.create_variants(network, torch.rand(2, 3, 64, 64), False).values()]
    torch.testing.assert_close(answers[0], answers[1])
    torch.testing.assert_close(answers[0], answers[2].float(), atol=0.05, rtol=0.05)
    assert answers[2].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_sizes": [64, 16]}, r"data\.image_size=16 is too small for shufflenet; give 32"),
        ({"image_sizes": [[64, 0]]}, r"image_sizes=\[64, 0\] must be 1 or more"),
        (
            {"image_sizes": [[64, 32, 3]]},
            r"image_sizes=\[64, 32, 3\] is not a whole number or a list of 2 whole numbers",
        ),
        ({"image_sizes": 64}, r"image_sizes=64: give a list"),
        ({"batch_sizes": [0]}, r"batch_sizes=\[0\]"),
        pytest.param(
            {"trainer": {"accelerator": "gpu"}},
            "trainer.accelerator=gpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_be_measured_is_named_with_its_fix(settings, message):
    with pytest.raises(UserError, match=message):
        inference.measure(config(**settings), NARROW)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        MemoryError(),
    ],
)
def test_a_batch_beyond_the_memory_is_named_with_its_fix(error):
    with (
        pytest.raises(UserError, match=r"batch_sizes=2: .* narrow .* leave 2 out"),
        inference._hints("narrow", (32, 32), 2, torch.device("cpu")),
    ):
        raise error


def test_other_errors_stay_what_they_are():
    with (
        pytest.raises(RuntimeError, match="unsupported memory format"),
        inference._hints("narrow", (32, 32), 2, torch.device("cpu")),
    ):
        raise RuntimeError("unsupported memory format")
