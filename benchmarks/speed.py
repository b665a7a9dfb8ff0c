"""What exact Fisher information and a mixture cost, as ratios to the plain work on the same model.

Model: the shape of T5-small (random weights, no dropout) with LoRA r=8 on q and v; batches of 16 examples, 64
(or 16) source tokens and 8 target tokens. Every ratio is the median over repeats of the ratio within one
repeat, whose parts run one after the other, so that a machine that slows down slows both. Run it with the
machine to itself:

    python benchmarks/speed.py [--only fisher|mixture|memory|help] [--repeats N] [--threads N]

Results: `benchmarks/results/speed.json`. A part that was not run keeps its former results there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from speed_fisher import fisher_ratios
from speed_memory import memory_ratios
from speed_mixture import mixture_ratios

from pituning.provenance import provenance

RESULTS = Path(__file__).parent / "results" / "speed.json"

# Row -> the largest (<=) or smallest (>=) ratio that we aim at.
TARGETS = {
    "fisher, 64 tokens": "<= 1.05",
    "fisher, 16 tokens": "<= 1.10",
    "loop / fisher, 64 tokens": ">= 2",
    "loop / fisher, 16 tokens": ">= 3.5",
    "opacus / fisher, 64 tokens": ">= 1",
    "opacus / fisher, 16 tokens": ">= 1",
    "torch.func / fisher, 64 tokens": ">= 1",
    "torch.func / fisher, 16 tokens": ">= 1",
    "mixture of 4": "<= 1.05",
    "mixture of 16": "<= 1.12",
    "outputs of 8 mixed / mixture of 8": ">= 1.2",
    "inference: collapsed of 4 / one expert": "<= 1.01",
    "fisher peak memory": "<= 1.25",
    "pituning --help, seconds": "< 0.5",
}


def help_seconds(repeats: int) -> dict[str, Any]:
    """Wall time of the command's help in a new process."""
    command = Path(sys.executable).with_name("pituning")
    if not command.is_file():
        return {"pituning --help, seconds": f"not measured: no {command}"}
    seconds = []
    for _ in range(max(repeats, 5)):
        start = time.perf_counter()
        done = subprocess.run([command, "--help"], capture_output=True, check=False)
        seconds.append(time.perf_counter() - start)
        if done.returncode:
            return {"pituning --help, seconds": f"not measured: exit code {done.returncode}"}
    return {"pituning --help, seconds": sorted(seconds)[len(seconds) // 2]}


PARTS = {"fisher": fisher_ratios, "mixture": mixture_ratios, "memory": memory_ratios, "help": help_seconds}


def meets(value: Any, target: str) -> str:
    """ "yes", "no", or nothing where there is no target or no number."""
    if not target or not isinstance(value, float):
        return ""
    sign, bound = target.split()
    held = value >= float(bound) if sign == ">=" else value <= float(bound)
    return "yes" if held else "no"


def show(results: dict[str, Any]) -> None:
    table = Table("measured", "ratio", "target", "met", title="speed (medians)")
    for part in PARTS:
        for name, value in results.get(part, {}).get("ratios", {}).items():
            target = TARGETS.get(name, "")
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            table.add_row(name, shown, target, meets(value, target))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(PARTS), help="one part")
    parser.add_argument("--repeats", type=int, default=9, help="interleaved repeats (default 9)")
    parser.add_argument("--threads", type=int, help="of torch (default: torch's own choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for part in [options.only] if options.only else list(PARTS):
        ratios = PARTS[part](options.repeats)
        results[part] = {"ratios": ratios, "seed": 0, "repeats": options.repeats, **provenance()}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
