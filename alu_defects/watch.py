"""Decide on what a camera writes: `python -m alu_defects.watch run=<run> source=<folder> output=<folder>`."""

from omegaconf import DictConfig

from alu_defects.cli import verb
from alu_defects.config import check_settings
from alu_defects.errors import counted
from alu_defects.signals import ending_in_order


def watch(config: DictConfig) -> dict[str, int]:
    """Decide on each new image in a folder once, until SIGTERM or Ctrl-C; with `once`, on those that are there.

    Returns:
        How many images got which decision; `error` for those that could not be decoded, `duplicate` for contents that
        were decided before.

    Raises:
        UserError: no such run, source or device; an output that another process has.
    """
    from alu_defects.deployment.predictor import Predictor
    from alu_defects.deployment.watcher import Station

    check_settings(config)
    predictor = Predictor.load(config.run, device=config.device, max_pixels=config.max_pixels)
    station = Station(
        predictor,
        config.source,
        config.output,
        transfer=config.transfer,
        recursive=config.recursive,
        settle=config.settle,
        batch_size=config.batch_size,
        webhook=config.webhook,
        reference=config.reference,
        reference_images=config.reference_images,
    )
    with station, ending_in_order() as is_ending:
        print(f"watching {config.source}; heartbeat.json in {config.output} says how it is doing", flush=True)
        counts = station.run(once=config.once, poll=config.poll, is_ending=is_ending)
    text = ", ".join(f"{number} {decision}" for decision, number in sorted(counts.items()))
    print(f"{counted(sum(counts.values()), 'image')}{': ' * bool(text)}{text}")
    return counts


@verb("watch")
def main(config: DictConfig) -> None:
    """Watch what the command line names."""
    watch(config)


if __name__ == "__main__":
    main()
