"""The competition's train archives, with their true names."""

from pathlib import Path

import pytest

from .tianchi_names import true_names, write_tree


@pytest.fixture(scope="session")
def tianchi_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the three round-1 train archives, all 4,162 files; read only."""
    return write_tree(tmp_path_factory.mktemp("tianchi"), true_names())
