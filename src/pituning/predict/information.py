"""Embed: the Fisher information of a task's data at the untrained adapter, or at its own expert."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pituning.backbones import Backbone
from pituning.backbones.base import batches_by_length, without_gradients
from pituning.errors import BackboneError, ConfigError
from pituning.example import first_by_hash
from pituning.expert import Expert, attach_expert, attach_untrained, is_head
from pituning.predict.embedding import FisherConfig, TaskEmbedding
from pituning.predict.fisher import accumulate, batch_squared_fisher
from pituning.predict.similarity import similarity
from pituning.task import Example, Task

# The first check for convergence; the following ones each come at twice the examples.
FIRST_CHECK = 64


def embed(
    backbone: Backbone,
    expert: Expert,
    task: Task,
    config: FisherConfig | None = None,
    *,
    init_seed: int = 0,
    progress: bool = False,
) -> TaskEmbedding:
    """Fisher information of the task's training examples, at `expert` or at the adapter that it began as.

    At the adapter before any training, which is the same for all tasks of a pool, what differs between two
    embeddings is the tasks alone. It needs no trained expert of the task: one of no epoch will do. At each
    task's own expert, its training counts, too: with few examples, that says much of the run and little of
    the task. A head is the task's own in both.

    Stops early when the similarity between the embedding now and after half as many examples is at least
    1 - `tolerance`, looked at after 64, 128, 256 … examples. In the default setting the result does not
    depend on the batch size.

    Args:
        backbone: of the expert.
        expert: its configuration counts, its head, and with `at` "expert" its tensors.
        task: the expert's.
        config: see FisherConfig.
        init_seed: the pool's: of the untrained adapter, where the expert's card does not tell it.
        progress: show a bar on stderr.

    Returns:
        One non-negative number a parameter of the adapter.

    Raises:
        BackboneError: if the backbone cannot do the task; for sampled labels where that has no candidates to
            sample from.
        ExpertError: if the expert does not fit the backbone.
    """
    config = FisherConfig() if config is None else config
    ConfigError.check_kinds((Backbone, backbone), (Expert, expert), (Task, task), (FisherConfig, config))
    backbone.check(task)
    if config.labels == "sampled" and not task.candidates:
        raise BackboneError(
            "labels are sampled among a task's candidates", f"{task.name!r} has none", "Use labels='gold'."
        )
    if config.where == "start":
        model = attach_untrained(backbone, expert, init_seed)
    else:
        model = attach_expert(backbone, expert)
    # Heads belong to the task.
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and is_head(name, expert.config):
            parameter.requires_grad_(False)
    examples = first_by_hash(task.split("train"), config.max_examples)
    if config.labels == "sampled":
        examples = sample_labels(backbone, model, examples, task, config.seed)
    fisher, seen = _fisher(backbone, model, examples, task, config, progress)
    return TaskEmbedding(
        task=task.name,
        components={component_name(name): tensor.cpu() for name, tensor in fisher.items()},
        expert=expert.digest,
        data=task.fingerprint,
        config=config.hash,
        source=task.source,
        setting=config.setting,
        examples=seen,
        labels=config.labels,
        at=config.where,
    )


def component_name(parameter: str) -> str:
    """The parameter's name without PEFT's wrapping and adapter name."""
    return parameter.removeprefix("base_model.model.").replace(".default", "")


def sample_labels(
    backbone: Backbone, model: nn.Module, examples: Sequence[Example], task: Task, seed: int
) -> list[Example]:
    """The examples with answers drawn from the model's own distribution over the candidates."""
    generator = torch.Generator().manual_seed(seed)
    sampled = list(examples)

    def draw(rows: list[int]) -> None:
        likelihoods = backbone.log_likelihoods(model, [examples[row] for row in rows], task)
        drawn = torch.multinomial(likelihoods.softmax(dim=1).cpu(), 1, generator=generator)
        for row, index in zip(rows, drawn.flatten().tolist(), strict=True):
            sampled[row] = dataclasses.replace(examples[row], label=task.candidates[index])

    without_gradients(draw, examples)
    return sampled


def _fisher(
    backbone: Backbone,
    model: nn.Module,
    examples: Sequence[Example],
    task: Task,
    config: FisherConfig,
    progress: bool,
) -> tuple[dict[str, Tensor], int]:
    """The mean and the number of examples it is over."""

    def nll(model: nn.Module, batch: list[Example]) -> Tensor:
        return backbone.nll(model, backbone.collate(batch, task, independent=True))

    if config.setting == "paper":
        starts = range(0, len(examples), config.batch_size)
        batches = [list(examples[start : start + config.batch_size]) for start in starts]
        return batch_squared_fisher(model, batches, nll), len(examples)
    checkpoints = {FIRST_CHECK * 2**power for power in range(20)}
    stream = _batches(examples, config.batch_size, sorted(checkpoints))
    # A matching backbone reads the same candidates with every example.
    fixed = backbone.family == "matching"
    bar = tqdm(total=len(examples), desc=f"embed {task.name}", unit="example", disable=not progress)
    before = None
    with bar:
        for run in accumulate(model, stream, nll, split=_one_by_one, fixed_rows=fixed):
            bar.update(run.examples - bar.n)
            if config.tolerance and run.examples in checkpoints:
                mean = run.mean
                if before and similarity(before, mean) >= 1 - config.tolerance:
                    break
                before = mean if any(tensor.any() for tensor in mean.values()) else None
    return run.mean, run.examples


def _one_by_one(batch: list[Example]) -> list[list[Example]]:
    return [[example] for example in batch]


def _batches(examples: Sequence[Example], size: int, stops: Sequence[int]) -> Iterator[list[Example]]:
    """Batches of like lengths that end exactly at each of `stops`."""
    edges = [0, *[stop for stop in stops if stop < len(examples)], len(examples)]
    for start, end in pairwise(edges):
        segment = examples[start:end]
        for rows in batches_by_length(segment, size):
            yield [segment[row] for row in rows]
