"""Peak memory and time of `pituning convert ofa` on a random checkpoint of OFA-Large's shapes.

Each conversion is a process of its own; its peak is `ru_maxrss`, pages of mapped files and all imports
included. The imports' own peak is measured too, in a process that does nothing else. Run it with

    python benchmarks/ofa_conversion.py [--size large]

Work files: `benchmarks/work/ofa_conversion`, deleted afterwards. Results:
`benchmarks/results/ofa_conversion.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pituning.provenance import provenance

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "ofa_conversion.json"
WORK = HERE / "work" / "ofa_conversion"
LIMIT = 1.3
"""Times the size of the checkpoint."""

CASES: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32 to float16": {"options": ["--dtype", "float16"]},
    "float16": {"dtype": "float16"},
    "float32, format before torch 1.6": {"old": True},
    "float32 with adapters": {"adapters": True},
}

# The numbers come from the seed; the processes are apart, so that none inherits another's peak.
MAKE = """
import sys, json, torch
from pituning.models.ofa import OfaConfig, OfaForConditionalGeneration
size, path, said = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
config = OfaConfig.of_size(size)
with torch.device("meta"):
    shapes = OfaForConditionalGeneration(config).state_dict()
torch.manual_seed(0)
dtype = getattr(torch, said.get("dtype", "float32"))
state, tied = {}, {}
for name, like in shapes.items():
    if like.dtype == torch.int64:
        state[name] = torch.zeros(like.shape, dtype=torch.int64)
    elif name.endswith(("embed_tokens.weight", "output_projection.weight")):
        state[name] = tied.setdefault(0, torch.randn(like.shape).to(dtype))
    else:
        state[name] = torch.randn(like.shape).to(dtype)
if said.get("adapters"):
    for part in ("encoder", "decoder"):
        for layer in range(getattr(config, f"{part}_layers")):
            for place in (1, 2):
                prefix = f"{part}.layers.{layer}.adapter{place}"
                shapes = {"down_proj.weight": (128, config.d_model), "down_proj.bias": (128,)}
                shapes |= {"up_proj.weight": (config.d_model, 128), "up_proj.bias": (config.d_model,)}
                state |= {f"{prefix}.{key}": torch.randn(shape).to(dtype) for key, shape in shapes.items()}
tree = {"args": None, "cfg": None, "model": state, "extra_state": {}, "last_optimizer_state": None}
torch.save(tree, path, _use_new_zipfile_serialization=not said.get("old"))
"""

CONVERT = """
import resource, sys, time, json
start = time.perf_counter()
from pituning_command import main
code = main(["convert", "ofa", *sys.argv[1:]])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"code": code, "peak": peak, "seconds": time.perf_counter() - start}))
"""

IMPORTS = """
import resource, json
import pituning.cli.convert
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def child(program: str, *arguments: str) -> dict[str, Any]:
    """What a new process prints on its last line."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else {}


def measure(case: dict[str, Any], size: str) -> dict[str, Any]:
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    file = WORK / "ofa.pt"
    child(MAKE, size, str(file), json.dumps(case))
    found = child(CONVERT, str(file), str(WORK / "out"), *case.get("options", []))
    if found.pop("code"):
        raise RuntimeError("the conversion failed")
    checkpoint = file.stat().st_size
    return {
        "checkpoint_bytes": checkpoint,
        "peak_bytes": found["peak"],
        "peak_over_checkpoint": round(found["peak"] / checkpoint, 3),
        "seconds": round(found["seconds"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="large", help="an official size (default: large)")
    options = parser.parse_args()
    cases = {}
    try:
        for name, case in CASES.items():
            cases[name] = measure(case, options.size)
            print(name, cases[name], flush=True)
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    result = {
        "size": options.size,
        "limit_over_checkpoint": LIMIT,
        "met": all(case["peak_over_checkpoint"] <= LIMIT for case in cases.values()),
        "imports_peak_bytes": child(IMPORTS)["peak"],
        "cases": cases,
        "seed": 0,
        **provenance(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
