"""Measure what things cost on this machine: `python -m alu_defects.benchmark what=infer model=xception,shufflenet`."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alu_defects.cli import verb
from alu_defects.config import check_settings, model_options
from alu_defects.errors import UserError, check_choice

if TYPE_CHECKING:  # torch and pandas take seconds to import: --help and --cfg must not wait for them
    from alu_defects.benchmarking.results import Table


def _infer(config: DictConfig) -> "list[Table]":
    models = _models(config)  # before the imports: a wrong name is answered at once
    from alu_defects.benchmarking import inference

    return inference.measure(config, models)


def _scale(config: DictConfig) -> "list[Table]":
    from alu_defects.benchmarking import data, scale

    return [*scale.measure(config), data.extrapolated(config)]


def _data(config: DictConfig) -> "list[Table]":
    from alu_defects.benchmarking import data

    return data.measure(config)


def _train(config: DictConfig) -> "list[Table]":
    models = _models(config)
    from alu_defects.benchmarking import training

    return training.measure(config, models)


MEASUREMENTS: dict[str, Callable[[DictConfig], "list[Table]"]] = {
    "data": _data,
    "train": _train,
    "infer": _infer,
    "scale": _scale,
}


def _models(config: DictConfig) -> dict[str, dict[str, Any]]:
    """Name → group `model` of the networks that are measured."""
    if not config.models or not all(isinstance(name, str) for name in config.models):
        raise UserError(f"models={config.models}: give names of networks, as in model=xception,shufflenet")
    return {name: model_options(name) for name in config.models}


def benchmark(config: DictConfig) -> dict[str, Any]:
    """Measure, print the tables, and write them as benchmark.json and benchmark.md.

    Args:
        config: conf/benchmark.yaml, composed; `output` becomes a folder.

    Returns:
        What benchmark.json holds: `what`, `command`, `machine`, and `tables` with their rows.

    Raises:
        UserError: an unknown measurement, or a setting that it cannot work with.
    """
    check_settings(config)
    check_choice("what", config.what, MEASUREMENTS)
    tables = MEASUREMENTS[config.what](config)

    from rich.console import Console

    from alu_defects.benchmarking import machine, results
    from alu_defects.io import write_json

    console = Console()
    for table in tables:
        console.print(table.to_rich(console.width))
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else [f"what={config.what}"]
    command = shlex.join(["python", "-m", "alu_defects.benchmark", *overrides])
    found = {
        "what": config.what,
        "command": command,
        "machine": machine.describe(),
        "tables": [table.to_json() for table in tables],
    }
    output = Path(str(config.output)).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "benchmark.json", found)
    page = results.document(f"Benchmark {config.what}", command, found["machine"], tables)
    (output / "benchmark.md").write_text(page, encoding="utf-8")
    print(f"tables: {output / 'benchmark.md'}")  # not by rich, which would break a long path
    return found


@verb("benchmark")
def main(config: DictConfig) -> None:
    """Measure what the command line names."""
    benchmark(config)


if __name__ == "__main__":
    main()
