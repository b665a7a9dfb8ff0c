"""What made a result: versions, commit and machine, for every JSON under `results/`."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "peft", "opacus", "scikit-learn")


def provenance() -> dict[str, Any]:
    """What the numbers depend on besides the configuration."""
    found = {name: version(name) for name in PACKAGES if find_spec(name.replace("scikit-learn", "sklearn"))}
    return {
        "versions": {"python": platform.python_version(), **found},
        "commit": COMMIT,
        "machine": {
            "arch": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": os.getloadavg()[0],
        },
    }


# Read when the process starts, which is when the code it runs is read.
COMMIT = subprocess.run(
    ["git", "describe", "--always", "--dirty"],
    capture_output=True,
    text=True,
    cwd=Path(__file__).parent,
    check=False,
).stdout.strip()
