"""What `ofa-mini` learnt: each skill of its pre-training on fresh samples, answered greedily.

python benchmarks/ofa_mini.py --emoji FOLDER --wordnet FOLDER --curve OUT/work/curve.json
                                                            # results/ofa_mini.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

from few_shot import write

from pituning.backbones import load_backbone
from pituning.pretrain.config import PretrainConfig
from pituning.pretrain.mixture import Mixture
from pituning.provenance import provenance

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from skill_answers import right

RESULTS = Path(__file__).parent / "results"


def smoothed(losses: list[dict[str, Any]], steps: int = 500) -> list[dict[str, float]]:
    """Mean loss of each kind over so many steps."""
    rows = []
    for end in range(steps, len(losses) + 1, steps):
        part = losses[end - steps : end]
        means = {k: mean(one["loss"] for one in part if one["kind"] == k) for k in ("pictures", "text")}
        rows.append({"step": end, **means})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="ofa-mini")
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--curve", type=Path, required=True, help="that its pre-training left")
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    skills = Mixture.of(PretrainConfig(emoji=options.emoji, wordnet=options.wordnet))
    backbone = load_backbone(options.backbone)
    found = {}
    for name, (make, _) in {**skills.pictures, **skills.texts}.items():
        rng = Random(f"benchmark {name}")
        chunks = [[make(rng) for _ in range(64)] for _ in range(options.samples // 64)]
        found[name] = mean(right(backbone, chunk) for chunk in chunks)
        print(f"{name:12} {found[name]:.3f}", flush=True)
    curve = smoothed(json.loads(options.curve.read_text()))
    write(
        RESULTS / "ofa_mini.json",
        {"skills": found, "samples": options.samples, "curve": curve, **provenance()},
    )
