"""The verb: words on the command line, and the files it leaves."""

import json
import re

import pytest
import torch

from alu_defects.benchmark import benchmark, describe_machine
from alu_defects.config import compose, model_options
from alu_defects.errors import UserError

FAST = ["trainer=cpu", "image_sizes=[32]", "batch_sizes=[1]", "repeats=1", "seconds=0.001"]


@pytest.mark.slow
def test_models_are_a_list_of_words_and_the_tables_are_written(command, tmp_path):
    words = ["what=infer", "model=shufflenet,timm/test_resnet", *FAST, f"output={tmp_path / 'out'}"]
    done = command("benchmark", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "latency of one image on cpu" in done.stdout
    assert f"tables: {tmp_path / 'out' / 'benchmark.md'}" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8"))
    assert set(found) == {"what", "command", "machine", "tables"}
    assert "'models=[shufflenet,timm/test_resnet]'" in found["command"]
    networks, latency = found["tables"]
    assert [row["network"] for row in networks["rows"]] == ["shufflenet", "timm/test_resnet"]
    assert latency["rows"][0]["p50 (ms)"]["median"] > 0
    page = (tmp_path / "out" / "benchmark.md").read_text(encoding="utf-8")
    assert found["command"] in page
    assert found["machine"]["cpu"] in page
    assert "| shufflenet | 32 | eager |" in page


def test_a_wrong_network_is_named_with_its_fix(command, tmp_path):
    done = command("benchmark", "what=infer", "model=shufflenet,xceptoin", *FAST, f"output={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: model=xceptoin does not exist; did you mean xception")
    assert not (tmp_path / "out").exists()


def test_a_wrong_measurement_is_named_with_its_fix(tmp_path):
    with pytest.raises(UserError, match=r"what=infre does not exist; did you mean infer\?"):
        benchmark(compose("benchmark", ["what=infre", f"output={tmp_path}"]))


@pytest.mark.parametrize("models", ["[]", "[[shufflenet,xception]]"])
def test_networks_are_given_as_names(models):
    with pytest.raises(UserError, match="give names of networks, as in model=xception,shufflenet"):
        benchmark(compose("benchmark", ["what=infer", f"models={models}", "output=none"]))


@pytest.mark.parametrize("setting", ["repeats=0", "seconds=0"])
def test_no_rounds_and_no_duration_are_refused(setting):
    with pytest.raises(UserError, match=f"{setting} (must be 1 or more|above 0)"):
        benchmark(compose("benchmark", ["what=infer", "output=none", setting]))


def test_machine_is_described_without_its_owner():
    described = describe_machine()
    assert described["cpu"]
    assert described["cores"] >= 1
    assert described["torch threads"] == torch.get_num_threads()
    assert any(package.startswith("torch ") for package in described["packages"])
    assert not re.search(r"[/\\\\]", json.dumps(described))  # no path
    assert {"node", "host", "user"}.isdisjoint(described)


def test_a_network_has_the_settings_of_its_own_file():
    options = model_options("shufflenet")
    assert (options["learning_rate"], options["width"], options["attention_reduction"]) == (0.004, 1.0, 16)
    assert model_options("timm/resnet18")["name"] == "timm/resnet18"
    with pytest.raises(UserError, match="give model=timm/<"):
        model_options("timm")
