"""The model and the batches that the speed benchmarks share, and how pieces of work are timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

BATCH, TARGET_TOKENS, VOCABULARY = 16, 8, 32128
LORA = LoraConfig(task_type="SEQ_2_SEQ_LM", r=8, lora_alpha=16, target_modules=["q", "v"])


def t5_small() -> nn.Module:
    """T5-small's sizes, weights drawn from seed 0, no dropout."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=512,
        d_ff=2048,
        d_kv=64,
        num_layers=6,
        num_heads=8,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        use_cache=False,
    )
    return T5ForConditionalGeneration(config).requires_grad_(False).eval()


def shake(model: nn.Module, seed: int) -> None:
    """Random values for what trains: an untrained LoRA's B is zero, and with it all gradients of A."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)


def batch_of(tokens: int, seed: int, size: int = BATCH) -> dict[str, Tensor]:
    """Random tokens without padding."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(1, VOCABULARY, (size, tokens), generator=generator),
        "labels": torch.randint(1, VOCABULARY, (size, TARGET_TOKENS), generator=generator),
    }


def nll(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Summed over the answer's tokens, one number an example."""
    labels = batch["labels"]
    start = torch.zeros_like(labels[:, :1])
    logits = model(
        input_ids=batch["input_ids"], decoder_input_ids=torch.cat([start, labels[:, :-1]], 1)
    ).logits
    return nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(dim=1)


def split(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Batches of one."""
    rows = range(len(batch["labels"]))
    return [{name: tensor[row : row + 1] for name, tensor in batch.items()} for row in rows]


def interleaved(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each work in each repeat, after one that does not count; the order turns each time."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for repeat in range(repeats + 1):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            works[name]()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
    """Median over the repeats."""
    return median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))
