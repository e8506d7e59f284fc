"""Decide on new images: `python -m alu_defects.predict run=runs/<run> source=<folder>`."""

from pathlib import Path

from omegaconf import DictConfig

from alu_defects.cli import verb
from alu_defects.config import check_settings
from alu_defects.errors import counted


def predict(config: DictConfig) -> dict[str, int]:
    """Decide on images with a trained network, and write a table with one row an image.

    Columns: path, label, confidence (its calibrated probability), decision (pass, reject or ask; without a class of
    good pieces accept or ask), the calibrated probability p_<class> of each class, status (ok or error), error; with
    `save_maps` also map, a PNG of where the network saw the label.

    Returns:
        How many images got which decision; `error` for those that could not be decoded.

    Raises:
        UserError: no such run, source or device; an output that exists, or was begun with another network; a network
            that has no maps.
    """
    from alu_defects.deployment.predictor import Predictor
    from alu_defects.deployment.source import list_source
    from alu_defects.deployment.table import STANDARD_OUTPUT, write_predictions

    check_settings(config)
    files = list_source(str(config.source), recursive=config.recursive)
    predictor = Predictor.load(config.run, device=config.device, max_pixels=config.max_pixels)
    counts = write_predictions(
        predictor,
        files,
        output := str(config.output),
        config.format,
        batch_size=config.batch_size,
        top_k=config.top_k,
        save_maps=config.save_maps,
        progress=config.progress,
    )
    if output != STANDARD_OUTPUT:
        text = ", ".join(f"{number} {decision}" for decision, number in sorted(counts.items()))
        print(f"{counted(counts.total(), 'image')}: {text}\ntable: {Path(output).expanduser().absolute()}")
    return dict(counts)


@verb("predict")
def main(config: DictConfig) -> None:
    """Decide on what the command line names."""
    predict(config)


if __name__ == "__main__":
    main()
