"""Does the default recipe learn? Minutes, so `make test-slow`."""

import pytest

from alu_defects.config import compose
from alu_defects.train import train


@pytest.mark.slow
def test_the_quickstart_learns_the_generated_classes(tmp_path):
    """76 % were seen on sessions it had not met, guessing has 9 %; 60 % leave room for another processor's rounding."""
    words = ["experiment=quickstart", f"run_dir={tmp_path / 'run'}", f"paths.cache={tmp_path}"]
    assert train(compose("train", words))["test"]["accuracy"] > 0.6
