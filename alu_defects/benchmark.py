"""Measure what networks cost here: `python -m alu_defects.benchmark what=infer model=xception,shufflenet`."""

import platform
import re
import shlex
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alu_defects.cli import verb
from alu_defects.config import check_settings, model_options
from alu_defects.errors import UserError, check_choice


def benchmark(config: DictConfig) -> dict[str, Any]:
    """Measure training or inference, print the tables, and write them as benchmark.json and benchmark.md in `output`.

    Returns:
        What benchmark.json holds: `what`, `command`, `machine`, and `tables` with their rows.

    Raises:
        UserError: an unknown measurement, network or run, an image too small for one, a batch too large for the
            memory, a GPU or a compiler that is not there, or settings of the data that cannot be.
    """
    check_settings(config)
    check_choice("what", config.what, ("train", "infer"))
    if config.repeats < 1 or not config.seconds > 0:
        raise UserError(f"repeats={config.repeats} must be 1 or more, and seconds={config.seconds} above 0")
    if config.run and config.what != "infer":
        raise UserError(f"run={config.run} is of what=infer; to measure training give model=<name>")
    if not config.models or not all(isinstance(name, str) for name in config.models):
        raise UserError(f"models={config.models}: give names of networks, as in model=xception,shufflenet")
    models = {name: model_options(name) for name in config.models}  # before the imports, which take seconds

    from rich.console import Console

    from alu_defects.benchmarking import inference, training
    from alu_defects.io import write_json

    if config.run:
        tables = inference.measure_run(config)
    else:
        tables = {"train": training.measure, "infer": inference.measure}[config.what](config, models)
    console = Console()
    for table in tables:
        console.print(table.to_rich(console.width), "")
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else [f"what={config.what}"]
    command = shlex.join(["python", "-m", "alu_defects.benchmark", *overrides])
    machine = describe_machine()
    found = {"what": config.what, "command": command, "machine": machine, "tables": [asdict(t) for t in tables]}
    output = Path(str(config.output)).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "benchmark.json", found)
    described = [f"- {name}: {', '.join(v) if isinstance(v, list) else v}" for name, v in machine.items() if v != []]
    page = [f"# Benchmark {config.what}", f"    {command}", "\n".join(described), *(t.to_markdown() for t in tables)]
    (output / "benchmark.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print(f"tables: {output / 'benchmark.md'}")  # not by rich, which would break a long path
    return found


def describe_machine() -> dict[str, Any]:
    """What decides how fast a machine is, and the versions of what computes; nothing tells whose it is."""
    import joblib
    import psutil
    import torch

    from alu_defects.runs.run import PACKAGES
    from alu_defects.training.trainer import native_bf16

    cpuinfo = Path("/proc/cpuinfo")  # Linux alone
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else "")
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": joblib.cpu_count(),  # of this process: affinity and the limits of a container count
        "cpu instructions": [torch.backends.cpu.get_cpu_capability(), *(["bf16"] if native_bf16("cpu") else [])],
        "memory (GiB)": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [f"{gpu.name} ({gpu.total_memory / 2**30:.1f} GiB)" for gpu in gpus],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch threads": torch.get_num_threads(),
        "packages": [f"{found.name} {found.version}" for found in distributions() if found.name in PACKAGES],
    }


@verb("benchmark")
def main(config: DictConfig) -> None:
    """Measure what the command line names."""
    benchmark(config)


if __name__ == "__main__":
    main()
