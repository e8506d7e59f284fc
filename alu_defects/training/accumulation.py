"""Gradient accumulation: a batch that does not fit into the memory of the GPU is cut into parts."""

import copy
import logging
import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error

from alu_defects.config import Size
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError
from alu_defects.training import optimization
from alu_defects.training.module import Classifier

log = logging.getLogger(__name__)

MEMORY_MARGIN = 0.05  # of the memory of a GPU: for fragmentation, and for what cuDNN tries in later steps


def find_accumulation_steps(step: Callable[[int], object], batch_size: int) -> int:
    """The number of parts of a batch: 1, 2, 4, … until `step(images)` fits into the memory.

    Not even two images, which batch normalisation needs, are a `UserError`.
    """
    count = 1
    while True:
        size = math.ceil(batch_size / count)
        try:
            step(size)
            return count
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
        finally:
            garbage_collection_cuda()  # also when it fits: pixels or another process need the memory
        if size <= 2:
            raise UserError(
                f"a training step of {size} images does not fit into the memory of the GPU; "
                "lower data.image_size, take a smaller network, or train on the processor with trainer=cpu"
            )
        count *= 2


def trial_step(
    classifier: Classifier, image_size: Size, device: torch.device, autocast: torch.dtype | None, copies: int = 0
) -> Callable[[int], None]:
    """Two training steps with a number of grey images and a copy of a classifier, for `find_accumulation_steps`.

    `autocast` None computes in the type of the network. `copies` of the weights must fit, too: for a moving average,
    and for the gradients that several processes exchange.
    """

    def step(number: int) -> None:
        weights = sum(p.numel() * p.element_size() for p in classifier.parameters())
        total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
        held = torch.empty(copies * weights + int(MEMORY_MARGIN * total), dtype=torch.uint8, device=device)
        network = copy.deepcopy(classifier).to(device).train()
        optimizer = optimization.create_optimizer(network.optimizer_options, network.backbone)
        images = torch.full((number, 3, *image_size), 0.5, device=device)
        for _ in range(2):  # in the second the optimizer's state and the gradients are in memory, too
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                logits = network(images)
            network.loss(logits.float(), torch.zeros(number, dtype=torch.int64, device=device)).backward()
            optimizer.step()
        del held

    return step


def accumulate_to_fit(trainer: pl.Trainer, classifier: Classifier, data: DefectData, parts: int | None) -> None:
    """Cut the batches into parts that fit into the memory of the GPU; on a CPU they stay whole.

    A step still learns from `data.batch_size` images, or a few more where that does not divide evenly; but batch
    normalisation sees the parts. `parts` is their number in a run that is resumed, or None: find it.
    """
    device = trainer.strategy.root_device
    whole = data.batch_size
    if parts is None and device.type == "cuda":
        averages = any(isinstance(c, pl.callbacks.WeightAveraging) for c in trainer.callbacks)  # type: ignore[attr-defined]
        exchanges = trainer.strategy.launcher is not None
        trial = (classifier, data, device, str(trainer.precision), averages + exchanges)
        if exchanges:  # in a process that ends: one that trains will need all the memory of this GPU
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                parts = pool.submit(_find_steps, *trial).result()
        else:
            parts = _find_steps(*trial)
    trainer.accumulate_grad_batches = parts = parts or 1
    data.batch_size = size = math.ceil(whole / parts)
    if size < whole:
        if trainer.limit_train_batches == 1.0:  # as many steps as with whole batches, for the schedule
            images = len(data.find_rows("train")) // trainer.world_size
            trainer.limit_train_batches = max(1, images // whole) * parts
        log.warning(f"data.batch_size={whole} does not fit into the memory of the GPU: {parts} parts of {size} images")


def _find_steps(classifier: Classifier, data: DefectData, device: torch.device, amp: str, copies: int) -> int:
    data.move_pixels(device)  # what pixels take, the network cannot have
    autocast = {"bf16": torch.bfloat16, "16": torch.float16}.get(amp.removesuffix("-mixed"))
    return find_accumulation_steps(trial_step(classifier, data.image_size, device, autocast, copies), data.batch_size)
