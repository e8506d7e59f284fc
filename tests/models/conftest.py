import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small images gain nothing from a second thread; on a busy machine, waiting for it took 30 times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
