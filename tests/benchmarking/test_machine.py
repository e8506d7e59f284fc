import json
import re

import torch

from alu_defects.benchmarking import machine


def test_the_machine_is_described_without_saying_whose_it_is():
    described = machine.describe()
    assert described["cpu"]
    assert described["cores"] >= 1
    assert described["torch threads"] == torch.get_num_threads()
    assert torch.__version__.startswith(described["packages"]["torch"])
    assert set(described["cpu flags"]) <= set(machine.CPU_FLAGS)
    text = json.dumps(described)
    assert not re.search(r"[/\\\\]", text)  # no path
    assert {"node", "host", "user"}.isdisjoint(described)


def test_flags_are_read_from_x86_and_arm():
    assert machine.cpu_flags("processor\t: 0\nflags\t\t: fpu avx2 avx512f amx_bf16 avx512_bf16x\n") == [
        "avx2",
        "avx512f",
        "amx_bf16",
    ]
    assert machine.cpu_flags("Features\t: fp asimd bf16\n") == ["asimd", "bf16"]
    assert machine.cpu_flags("") == []
