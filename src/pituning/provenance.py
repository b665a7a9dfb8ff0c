"""What made a result: versions, commit and machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("pituning", "torch", "transformers", "peft", "opacus", "scikit-learn")

CHECKOUT = Path(__file__).parents[2]


def provenance() -> dict[str, Any]:
    """What the numbers depend on besides the configuration; `commit` is empty outside a checkout of ours."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": commit(),
        "machine": {
            "arch": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
    }


def _versions() -> dict[str, str]:
    found = dict[str, str]()
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str:
    """As it was when first asked for: the code that runs was read before."""
    if not (CHECKOUT / "src").is_dir() or not (CHECKOUT / ".git").exists():
        return ""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    except OSError:  # no git here
        return ""
    return found.stdout.strip()
