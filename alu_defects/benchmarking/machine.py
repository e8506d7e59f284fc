"""The machine: what decides how fast it is, and nothing that tells whose it is."""

import os
import platform
import re
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib
import torch

from alu_defects.runs.run import PACKAGES

# instruction sets that convolutions and matrix products use: of x86, then of ARM
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")


def describe() -> dict[str, Any]:
    """CPU, its cores and instruction sets, memory, GPUs, and the versions of what computes; None: not known."""
    file = Path("/proc/cpuinfo")  # Linux alone
    cpuinfo = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": joblib.cpu_count(),  # of this process: affinity and the limits of a container count
        "cpu flags": cpu_flags(cpuinfo),
        "memory (GiB)": _memory(),
        "gpus": [_gpu(number) for number in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch threads": torch.get_num_threads(),
        "packages": _versions(),
    }


def cpu_flags(cpuinfo: str) -> list[str]:
    """Those of `CPU_FLAGS` that the text of /proc/cpuinfo names."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return [flag for flag in CPU_FLAGS if found and flag in found[1].split()]


def _memory() -> float | None:
    with suppress(AttributeError, ValueError):  # Windows has no sysconf
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return None


def _gpu(number: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(number)
    return {"name": properties.name, "memory (GiB)": round(properties.total_memory / 2**30, 1)}


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
