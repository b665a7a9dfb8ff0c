"""Peak memory of exact Fisher information against a plain pass, each in a process of its own.

A process loads the model, notes its resident size, runs two batches of its kind and reports the peak of
its resident size above that: activations, gradients and what the allocator keeps. It asks for `VmHWM`, as
`ru_maxrss` of a new process begins at that of the one that started it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch
from peft import get_peft_model
from speed_model import LORA, batch_of, nll, shake, t5_small

from pituning.predict.fisher import accumulate

TOKENS = 64


def memory_ratios(repeats: int) -> dict[str, float]:
    peaks = {kind: median(_measured(kind) for _ in range(min(repeats, 3))) for kind in ("plain", "fisher")}
    return {
        "plain peak memory, MiB": peaks["plain"] / 2**20,
        "fisher peak memory": peaks["fisher"] / peaks["plain"],
    }


def _measured(kind: str) -> int:
    command = [sys.executable, __file__, kind]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _peak(kind: str) -> int:
    model = get_peft_model(t5_small(), LORA).eval()
    shake(model, seed=1)
    # One example first: what a first pass allocates for good (thread pools, kernels) is not part of either.
    plain_batch = batch_of(TOKENS, seed=2, size=1)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.autograd.grad(nll(model, plain_batch).sum(), parameters)
    before = _resident()
    batches = [batch_of(TOKENS, seed=seed) for seed in (3, 4)]
    if kind == "plain":
        for batch in batches:
            torch.autograd.grad(nll(model, batch).sum(), parameters)
    else:
        for _ in accumulate(model, batches, nll, method="hooks"):
            pass
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 - before


if __name__ == "__main__":
    print(_peak(sys.argv[1]))
