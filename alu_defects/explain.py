"""Show what made a network decide so: `python -m alu_defects.explain run=runs/<run> split=test`."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from omegaconf import DictConfig

from alu_defects.cli import verb
from alu_defects.config import check_settings, plain
from alu_defects.errors import UserError, check_choice, counted

if TYPE_CHECKING:  # torch takes seconds to import: --help and --cfg must not wait for it
    from alu_defects.deployment.bundle import Decision
    from alu_defects.deployment.explanation import Explanation
    from alu_defects.deployment.predictor import Predictor
    from alu_defects.reports.explanation_report import Card

T = TypeVar("T")
log = logging.getLogger(__name__)


def explain(config: DictConfig) -> "list[Explanation]":
    """Show, over the worst images of a split or of a source, what spoke for the decision.

    These are class-activation maps of the predicted label and of the true one, Grad-CAM of an earlier layer, and the
    gates of attention, where the network has them. They are written as a PNG for each image and a page with all.

    Returns:
        The explanations, the worst image first: mistakes, the most confident first, then the least confident images.

    Raises:
        UserError: no such run, split, source, class or layer, an exported file, images that are missing, have changed
            or cannot be decoded, or a network without maps.
    """
    from alu_defects.data.splits import check_held_out
    from alu_defects.deployment import torch_network
    from alu_defects.deployment.explanation import Explainer
    from alu_defects.deployment.predictor import EXPORTED, Predictor
    from alu_defects.reports.explanation_report import write_explanations

    check_settings(config)
    check_held_out(config.split.name)
    path = Path(os.path.expanduser(config.run))  # noqa: PTH111 (as of predict)
    if path.suffix in EXPORTED:
        raise UserError(
            f"run={path}: an exported file gives no gradients; give the run that it was made of, or best.ckpt or "
            "model.safetensors in it"
        )
    run = torch_network.find_run(path)
    bundle, network, file = torch_network.read(path)
    computing = torch_network.computing(network, torch_network.choose_device(config.device))
    predictor = Predictor(bundle, computing, file, run.config().data.max_pixels)
    explainer = Explainer(predictor, network, config.layer)
    given = plain(config.classes) or []
    for name in (classes := [given] if isinstance(given, str) else given):
        check_choice("classes", name, bundle.classes)
    images = _list_source(config) if config.source else run.images(config.split.name, plain(config.data.root))
    decided, broken = _decide(predictor, images, config)
    if not (chosen := [one for one in decided if not classes or (one.true or one.decision.label) in classes]):
        raise UserError(f"there is no image to explain{': ' if broken else ''}{'; '.join(broken[:3])}")
    worst = sorted(chosen, key=_trust)[: config.images]
    found = [explainer.explain(one.path, one.true) for one in _track(worst, "explaining", config)]
    title = f"{bundle.about['model']} on {config.source or config.split.name}: {run.folder.resolve().name}"
    notes = [_count(chosen, len(found)), *(f"cannot be decoded: {text}" for text in broken)]
    output = Path(os.path.expanduser(config.output)) if config.output else run.folder / "explain"  # noqa: PTH111
    try:
        page = write_explanations(list(map(_card, found)), output, title, notes)
    except OSError as error:
        raise UserError(
            f"output={output} cannot be written ({error.strerror}); make room or rights, or give another"
        ) from error
    print(f"{notes[0]}\npage: {page.absolute()}")
    return found


class _Decided(NamedTuple):
    path: str
    true: str  # its label; "" where it is not known
    decision: "Decision"

    @property
    def is_wrong(self) -> bool:
        return self.true not in ("", self.decision.label)


def _list_source(config: DictConfig) -> list[tuple[str, str]]:
    from alu_defects.deployment.source import list_source

    files = list_source(str(config.source), recursive=config.recursive)
    if not all(isinstance(file, str) for file in files):
        raise UserError("source=-: the standard input is an image; give its file, or paths, one a line")
    return [(str(file), "") for file in files]


def _decide(
    predictor: "Predictor", images: Sequence[tuple[str, str]], config: DictConfig
) -> tuple[list[_Decided], list[str]]:
    """The decisions on images, and what is wrong with those that cannot be decoded."""
    found = predictor.predict([path for path, _ in images], batch_size=config.batch_size)
    decided, broken = [], []
    for one, (path, true) in zip(_track(found, "predicting", config, len(images)), images, strict=True):
        if one.decision is None:
            broken.append(f"{path} ({one.error})")
            log.warning("cannot be decoded: %s", broken[-1])
        else:
            decided.append(_Decided(path, true, one.decision))
    return decided, broken


def _trust(one: _Decided) -> tuple[bool, float]:
    """Lowest for the most confident mistake, then for the least confident of the others."""
    return not one.is_wrong, -one.decision.confidence if one.is_wrong else one.decision.confidence


def _count(chosen: Sequence[_Decided], shown: int) -> str:
    mistakes = (
        f"{counted(sum(one.is_wrong for one in chosen), 'mistake')} in " if any(one.true for one in chosen) else ""
    )
    return f"{mistakes}{counted(len(chosen), 'image')}; the worst {shown} are explained"


def _card(one: "Explanation") -> "Card":
    from alu_defects.deployment.map_files import file_name
    from alu_defects.reports.explanation_report import Card

    label, confidence, action, _ = one.decision
    is_wrong = one.label not in ("", label)
    true = f"{one.label} taken for " if is_wrong else ""
    return Card(
        f"{true}{label} ({confidence:.0%}), {action}", one.path, is_wrong, file_name(one.path), one.panels, one.notes
    )


def _track(items: Iterable[T], text: str, config: DictConfig, total: int | None = None) -> Iterable[T]:
    from rich.console import Console
    from rich.progress import track

    return track(items, text, total=total, disable=not config.progress, console=Console(stderr=True))


@verb("explain")
def main(config: DictConfig) -> None:
    """Explain what the command line names."""
    explain(config)


if __name__ == "__main__":
    main()
