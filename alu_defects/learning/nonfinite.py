"""Training losses that are no numbers: the run stops before anything is saved, or the step is left out."""

import logging

from lightning.pytorch import Trainer
from torch import Tensor, stack

from alu_defects.errors import UserError, check_choice

log = logging.getLogger(__name__)

CHOICES = ("error", "skip")
SHOWN = 8  # pictures


class LossWatch:
    """Looks at the losses of the training steps.

    Args:
        on_nonfinite: `error` stops at one that is NaN or infinite; `skip` leaves the step out, which makes a GPU wait
            at each.
        most: steps that are left out before that is an error too.

    Attributes:
        skipped: steps that were left out so far.

    Raises:
        UserError: another word, or a number below 0.
    """

    def __init__(self, on_nonfinite: str, most: int) -> None:
        check_choice("on_nonfinite", on_nonfinite, CHOICES)
        if most < 0:
            raise UserError(f"max_nonfinite={most} must be 0 or more")
        self.skip, self.most, self.skipped = on_nonfinite == "skip", most, 0
        self._unseen: list[tuple[int, Tensor, Tensor]] = []

    def usable(self, loss: Tensor, index: Tensor, trainer: Trainer, batch: int) -> bool:
        """Whether the step with this loss is to be made.

        Args:
            loss: scalar, detached.
            index: catalogue rows of its pictures.
            trainer: where it is in the training, and the catalogue.
            batch: number in the epoch.

        Raises:
            UserError: it, or one of before, is not finite, or too many were not.
        """
        self._unseen.append((batch, loss, index))
        at_once = 1 if self.skip else _at_once(loss)
        return len(self._unseen) < at_once or self.look(trainer)

    def look(self, trainer: Trainer) -> bool:
        """Whether those that were not looked at yet are finite; before anything is saved they must be.

        Raises:
            UserError: see `usable`.
        """
        unseen, self._unseen = self._unseen, []
        finite = stack([loss for _, loss, _ in unseen]).isfinite().tolist() if unseen else []
        if all(finite):
            return True
        batch, loss, index = unseen[finite.index(False)]
        where = f"epoch {trainer.current_epoch + 1}, batch {batch + 1} of {trainer.num_training_batches}"
        paths = trainer.datamodule.scan()["path"].iloc[index.tolist()].tolist()  # type: ignore[attr-defined]
        more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        pictures = f"pictures {', '.join(paths[:SHOWN])}{more}"
        if not self.skip:
            raise UserError(
                f"the training loss is {loss.item()} in {where}; the checkpoints are as they were. "
                "Lower optimizer.lr, cut large gradients with trainer.gradient_clip_val=1, "
                f"or leave such steps out with on_nonfinite=skip. It came from the {pictures}"
            )
        self.skipped += 1
        if self.skipped > self.most:
            raise UserError(
                f"the training loss is {loss.item()} in {where}, not finite for the {self.skipped}. time, and "
                f"max_nonfinite={self.most}; the checkpoints are as they were. Lower optimizer.lr or cut large "
                f"gradients with trainer.gradient_clip_val=1. It came from the {pictures}"
            )
        log.warning("%s: the training loss is %s, step left out; %s", where, loss.item(), pictures)
        return False


def _at_once(loss: Tensor) -> int:
    """How many steps are looked at together: to wait for each would slow a GPU down."""
    return 1 if loss.device.type == "cpu" else 20
