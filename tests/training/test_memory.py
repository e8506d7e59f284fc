"""Memory that is freed is used again."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from alu_defects.training.memory import keep_freed_memory
kept = keep_freed_memory() if "keep" in sys.argv else None
def step():
    for _ in range(4):
        torch.empty(10_000_000).fill_(1)
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc alone")
def test_freed_memory_is_not_given_back_to_the_system() -> None:
    def faults(*words: str) -> tuple[str, int]:
        done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=True)
        kept, count = done.stdout.split()
        return kept, int(count)

    (_, given_back), (kept, count) = faults(), faults("keep")
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert given_back > 10_000  # pages of 4 kB, 20 times 40 MB
    assert count < given_back / 3
