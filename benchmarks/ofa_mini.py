"""What `ofa-mini` learnt: each skill of its pre-training on fresh samples, answered greedily.

python benchmarks/ofa_mini.py --emoji FOLDER --wordnet FOLDER      # results/ofa_mini.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random
from statistics import mean

import torch
from few_shot import write
from provenance import provenance

from pituning.backbones import Backbone, load_backbone
from pituning.metrics import iou
from pituning.mini20.definition import PIXELS
from pituning.models.ofa import OfaTokenizer
from pituning.pretrain.config import PretrainConfig
from pituning.pretrain.mixture import Mixture
from pituning.pretrain.samples import Sample, collate

RESULTS = Path(__file__).parent / "results"


def right(backbone: Backbone, samples: list[Sample]) -> float:
    """Share of the answers that are the wanted words, or a box with an IoU of at least 0.5."""
    tokenizer = backbone.tokenizer
    inputs = collate(samples, tokenizer, PIXELS)
    del inputs["labels"], inputs["decoder_input_ids"]
    with torch.no_grad():
        written = backbone.model.generate(**inputs, max_new_tokens=24, do_sample=False)[:, 1:].tolist()
    return mean(_is_right(sample, tokens, tokenizer) for sample, tokens in zip(samples, written, strict=True))


def _is_right(sample: Sample, tokens: list[int], tokenizer: OfaTokenizer) -> bool:
    if isinstance(sample.answer, str):
        return tokenizer.decode(tokens, skip_special_tokens=True).strip() == sample.answer
    first = tokenizer.bin_ids([0])[0]
    edges = [(token - first) / (tokenizer.bins - 1) for token in tokens[:4]]
    return all(0 <= edge <= 1 for edge in edges) and iou(tuple(edges), sample.answer) >= 0.5


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="ofa-mini")
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True)
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
    write(RESULTS / "ofa_mini.json", {"skills": found, "samples": options.samples, **provenance()})
