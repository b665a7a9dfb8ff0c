"""Laws of shared batches: the parts of several processes are, with their dropout, the batch of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny
import torch
from torch import Tensor

from pituning import parts
from pituning.backbones import Backbone
from pituning.expert import attach
from pituning.methods import peft_config
from pituning.parts import BatchLosses
from pituning.task import Example


def losses_of(rank: int, of: int, losses: BatchLosses, batch: list[Example]) -> list[Tensor]:
    """Two steps of one process; the second draws on from where the first stopped."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(parts, "processes", lambda: of)
        patch.setattr(parts, "own_rows", lambda size: slice(size * rank // of, size * (rank + 1) // of))
        torch.manual_seed(5)
        found = []
        for _ in range(2):
            with losses.drawing():
                found.append(losses(batch).detach())
        return found


@pytest.mark.parametrize(
    ("kind", "size", "processes"),
    # of 8, parts of 2 and 3: as many examples as candidates
    [(kind, *sizes) for kind in tiny.MAKERS for sizes in ((7, 2), (8, 3))] + [("t5", 2, 2), ("t5", 1, 2)],
)
def test_parts_are_the_batch(
    kind: str, size: int, processes: int, backbone_of: Callable[[str], Backbone]
) -> None:
    backbone = backbone_of(kind)
    known = tiny.task_for(kind)
    batch = [*known.train, *known.train][:size]
    model = attach(backbone, peft_config("lora", backbone.model), labels=known.candidates, seed=0)

    def shared() -> BatchLosses:
        return BatchLosses(
            lambda examples: backbone.collate(examples, known),
            lambda inputs: backbone.loss(model.train(), inputs, 0.0),
        )

    whole = losses_of(0, 1, shared(), batch)
    found = [losses_of(rank, processes, shared(), batch) for rank in range(processes)]
    for step, expected in enumerate(whole):
        steps = [part[step] for part in found]
        ambiguous = backbone.family == "matching" and len(known.candidates) in {
            size // processes,
            -(-size // processes),
        }
        if size < processes or ambiguous:
            assert all(torch.equal(part, expected) for part in steps)
        else:
            assert [len(part) for part in steps] == [
                size * (rank + 1) // processes - size * rank // processes for rank in range(processes)
            ]
            torch.testing.assert_close(torch.cat(steps), expected, rtol=1e-5, atol=1e-5)


def test_dropout_is_drawn_at_all(backbone_of: Callable[[str], Backbone]) -> None:
    known, backbone = tiny.task_for("t5"), backbone_of("t5")
    model = attach(backbone, peft_config("lora", backbone.model), labels=known.candidates, seed=0)
    one = BatchLosses(
        lambda examples: backbone.collate(examples, known),
        lambda inputs: backbone.loss(model.train(), inputs, 0.0),
    )
    first, second = losses_of(0, 1, one, list(known.train))
    assert not torch.allclose(first, second, atol=1e-3)


def test_without_dropout_a_part_is_collated_alone() -> None:
    seen: list[int] = []

    def collate(examples: list[Example]) -> dict[str, Tensor]:
        seen.append(len(examples))
        return {"x": torch.ones(len(examples), 1)}

    losses = BatchLosses(collate, lambda inputs: inputs["x"].squeeze(1))
    losses_of(0, 2, losses, [Example(text_a="a", label="b")] * 5)
    assert seen == [2, 5, 2]


@pytest.mark.parametrize("layout", [(0, 1, 2), (0, 2, 1), (1, 0, 2)])
@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.nn.functional.dropout(x, 0.5),
        lambda x: torch.rand_like(x),
        lambda x: torch.rand(len(x), 3),
        lambda x: x.new_empty(x.shape).normal_(),
        lambda x: torch.native_dropout(x, 0.5, True)[0],
    ],
)
def test_every_draw_is_rows_of_the_whole(
    draw: Callable[[Tensor], Tensor], layout: tuple[int, int, int]
) -> None:
    def collate(examples: list[Example]) -> dict[str, Tensor]:
        return {"x": torch.ones(len(examples), 3, 5)}

    def loss(inputs: dict[str, Tensor]) -> Tensor:  # each of these permutations is its own inverse
        drawn = draw(inputs["x"].permute(layout).contiguous().permute(layout)).flatten(1)
        return (drawn * torch.arange(1, drawn.shape[1] + 1)).sum(dim=1)

    batch = [Example(text_a="a", label="b")] * 5
    whole = losses_of(0, 1, BatchLosses(collate, loss), batch)
    found = [losses_of(rank, 2, BatchLosses(collate, loss), batch) for rank in (0, 1)]
    for step, expected in enumerate(whole):
        torch.testing.assert_close(torch.cat([part[step] for part in found]), expected)
