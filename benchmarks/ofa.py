"""OFA-Base: what fused attention and the cache save, as ratios measured side by side in one process.

Shape of OFA-Base with random weights; batches of 4 pictures of 224 px (196 patches; 900 at 480 px) with 20
tokens of text and 8 of answer, float32. Every ratio is the median over repeats of the ratio within one
repeat, whose parts run one after the other. Run it with the machine to itself:

    python benchmarks/ofa.py [--repeats N] [--threads N]

- step: forward, backward and AdamW's update; `scaled_dot_product_attention` over step-by-step ("eager")
  attention. Adapters alone are trained, as in π-Tuning, or every parameter.
- without the stem: the same, the stem's features given; the stem has no attention.
- decoding: so many tokens, greedily, without a cache over with it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pituning.expert import attach
from pituning.foundation import Frozen
from pituning.methods import peft_config
from pituning.models.ofa import OfaConfig, OfaForConditionalGeneration
from pituning.provenance import provenance

RESULTS = Path(__file__).parent / "results" / "ofa.json"
TARGETS = {"step, adapters": "<= 0.9", "step, all": "<= 0.9", "decoding 32 tokens": ">= 3"}
BATCH, PIXELS, SOURCE, ANSWER = 4, 224, 20, 8


def ofa(attention: str) -> OfaForConditionalGeneration:
    torch.manual_seed(0)
    return OfaForConditionalGeneration._from_config(OfaConfig.of_size("base"), attn_implementation=attention)


def inputs(pixels: int = PIXELS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(4, 50000, (BATCH, SOURCE), generator=generator),
        "patch_images": torch.randn(BATCH, 3, pixels, pixels, generator=generator),
        "patch_masks": torch.ones(BATCH, dtype=torch.bool),
    }


def trainer(model: Any, pixels: int = PIXELS) -> Callable[[], None]:
    """One training step of what requires a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    labels = torch.randint(4, 50000, (BATCH, ANSWER), generator=torch.Generator().manual_seed(1))
    batch = inputs(pixels) | {"labels": labels}
    model.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(**batch).loss.backward()
        optimizer.step()

    return step


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(first: Callable[[], object], second: Callable[[], object], repeats: int) -> dict[str, Any]:
    """Median of first / second, and of the seconds of both."""
    first(), second()
    times = []
    for number in range(repeats):
        order = (first, second) if number % 2 else (second, first)
        measured = {work: seconds(work) for work in order}
        times.append((measured[first], measured[second]))
    ratios = [a / b for a, b in times]
    return {
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "seconds": [statistics.median(column) for column in zip(*times, strict=True)],
    }


def adapted(attention: str) -> Any:
    base = ofa(attention)
    return attach(Frozen(base), peft_config("adapter", base), seed=0)


def without_stem(model: Any) -> Callable[[], None]:
    """Encoder and decoder on features that are there already."""
    features = torch.randn(BATCH, 1024, PIXELS // 16, PIXELS // 16)
    model.encoder.embed_images = _Given(features)
    return trainer(model)


class _Given(torch.nn.Module):
    """Stands where the stem was."""

    def __init__(self, features: torch.Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.features


def decoding(tokens: int, repeats: int) -> dict[str, Any]:
    """Without a cache over with it; the tokens must be equal."""
    model = ofa("sdpa").eval()
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}

    def write(cached: bool) -> torch.Tensor:
        return model.generate(**inputs(), **options, use_cache=cached)

    found = ratio(lambda: write(False), lambda: write(True), repeats)
    return found | {"equal tokens": bool(torch.equal(write(False), write(True)))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = {
        "step, adapters": ratio(trainer(adapted("sdpa")), trainer(adapted("eager")), options.repeats),
        "step, all": ratio(trainer(ofa("sdpa")), trainer(ofa("eager")), options.repeats),
        "step without the stem, all": ratio(
            without_stem(ofa("sdpa")), without_stem(ofa("eager")), options.repeats
        ),
        "step, adapters, 480 px": ratio(
            trainer(adapted("sdpa"), 480), trainer(adapted("eager"), 480), max(3, options.repeats // 2)
        ),
        **{
            f"decoding {tokens} tokens": decoding(tokens, max(3, options.repeats // 2))
            for tokens in (16, 32, 64)
        },
    }
    for name, found in measured.items():
        print(f"{name:28} {found['ratio']:.3f}  target {TARGETS.get(name, '-')}  {found}")
    document = {"measured": measured, "targets": TARGETS, **provenance()}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
