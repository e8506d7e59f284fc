"""How a batch fits into the memory of a small GPU: in parts, whose gradients are added up before a step."""

import copy
import math
from collections.abc import Callable

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error

from alu_defects.errors import UserError
from alu_defects.learning import optimizers
from alu_defects.learning.module import Classifier

MARGIN = 0.05  # of the memory of a GPU: fragmentation, and what cuDNN tries in later steps


def parts(step: Callable[[int], object], batch_size: int) -> int:
    """Into how many parts a batch must be cut: 1, 2, 4 ... until `step(pictures)` no longer runs out of memory.

    Raises:
        UserError: not even two pictures fit; batch normalisation needs two.
    """
    count = 1
    while True:
        size = math.ceil(batch_size / count)
        try:
            step(size)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
        else:
            return count
        finally:
            garbage_collection_cuda()  # give it back also when it fits: to pixels, or to another process
        if size <= 2:
            raise UserError(
                f"a training step of {size} pictures does not fit into the memory of the GPU; "
                "lower data.image_size, take a smaller network, or train on the processor with trainer=cpu"
            )
        count *= 2


def trial(
    classifier: Classifier, image_size: int, device: torch.device, autocast: torch.dtype | None, copies: int = 0
) -> Callable[[int], None]:
    """Two training steps of a number of grey images with a copy of a classifier, for `parts`.

    Args:
        classifier: is copied.
        image_size: side in pixels.
        device: a GPU.
        autocast: what the network computes in; None: as it is.
        copies: of the weights that the training holds besides: one of a moving average, one of the gradients that
            several processes exchange. They and `MARGIN` must fit, too.
    """

    def step(pictures: int) -> None:
        weights = sum(p.numel() * p.element_size() for p in classifier.parameters())
        margin = int(MARGIN * torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else 0
        held = torch.empty(copies * weights + margin, dtype=torch.uint8, device=device)
        network = copy.deepcopy(classifier).to(device).train()
        optimizer = optimizers.create(network.optimizer_options, network.parameters())
        images = torch.full((pictures, 3, image_size, image_size), 0.5, device=device)
        for _ in range(2):  # the second finds the optimizer's state, and gradients of another part, in memory
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                logits = network(images)
            network.loss(logits.float(), torch.zeros(pictures, dtype=torch.int64, device=device)).backward()
            optimizer.step()
        del held

    return step
