"""The likelihood of every candidate answer from few decoder rows.

OFA scores a candidate under the trie of all candidates: each token's probability is taken among the tokens
that may stand there. Where only one may, it is 1; so only the places where the trie branches need a decoder.
Letters: b samples, r decoder rows, n branching places, c children of a place, k candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pituning.models.ofa.trie import Trie

NOTHING = -1
"""Fills rows of different lengths."""


@dataclass(frozen=True, eq=False)
class CandidatePlan:
    """What to decode, and how candidates are read off it.

    Args:
        rows: token sequences for the decoder to read behind its prompt; none continues another.
        place_row: the decoder row that holds each branching place, int64 [n].
        place_depth: how many of the row's tokens come before it, int64 [n].
        children: tokens that may stand there, int64 [n, c], filled with NOTHING.
        edge_candidate, edge_child: for each choice on a candidate's way, the candidate and the chosen
            child's place in the flattened `children`, int64 [edges].
        count: number of candidates.
        trie: of the candidates, each with its end.
    """

    rows: list[list[int]]
    place_row: Int[Tensor, " n"]
    place_depth: Int[Tensor, " n"]
    children: Int[Tensor, "n c"]
    edge_candidate: Int[Tensor, " edges"]
    edge_child: Int[Tensor, " edges"]
    count: int
    trie: Trie

    def places_of(self, row: int) -> list[int]:
        """The branching places that a decoder row holds."""
        places: list[int] = (self.place_row == row).nonzero().flatten().tolist()
        return places

    def depths_of(self, row: int) -> list[int]:
        """How many of the row's tokens come before each of them."""
        depths: list[int] = self.place_depth[self.place_row == row].tolist()
        return depths

    def choices(self, place: int, logits: Float[Tensor, " vocabulary"]) -> Float[Tensor, " c"]:
        """The logits of what may stand in a place, -∞ beside them; a copy that keeps no other logit."""
        children = self.children[place].to(logits.device)
        return logits[children.clamp(min=0)].float().masked_fill(children == NOTHING, float("-inf"))

    def scores(self, choices: Float[Tensor, "b n c"]) -> Float[Tensor, "b candidates"]:
        """Log-likelihood of each candidate, given the `choices` of every place."""
        steps = choices.log_softmax(dim=2).flatten(1)[:, self.edge_child.to(choices.device)]
        found = torch.zeros(len(choices), self.count, device=choices.device)
        return found.index_add(1, self.edge_candidate.to(choices.device), steps)


def plan(candidates: Sequence[Sequence[int]], *, eos: int) -> CandidatePlan:
    """The plan for candidates given as token sequences without their end.

    Example:
        >>> plan([[5], [6, 7], [6, 8]], eos=2).rows
        [[6]]
    """
    following: dict[tuple[int, ...], list[int]] = {}
    for candidate in candidates:
        tokens = (*candidate, eos)
        for depth, token in enumerate(tokens):
            after = following.setdefault(tokens[:depth], [])
            if token not in after:
                after.append(token)
    places = sorted(prefix for prefix, after in following.items() if len(after) > 1)
    continued = {place[:depth] for place in places for depth in range(len(place))}
    rows = [place for place in places if place not in continued] or [()]
    owner = {row[:depth]: index for index, row in enumerate(rows) for depth in range(len(row) + 1)}
    widest = max((len(following[place]) for place in places), default=1)
    children = torch.full((len(places), widest), NOTHING)
    for index, place in enumerate(places):
        children[index, : len(following[place])] = torch.tensor(following[place])
    where = {place: index for index, place in enumerate(places)}
    edges = [
        (number, where[tokens[:depth]] * widest + following[tokens[:depth]].index(token))
        for number, candidate in enumerate(candidates)
        for tokens in [(*candidate, eos)]
        for depth, token in enumerate(tokens)
        if tokens[:depth] in where
    ]
    return CandidatePlan(
        [list(row) for row in rows],
        torch.tensor([owner[place] for place in places], dtype=torch.long),
        torch.tensor([len(place) for place in places], dtype=torch.long),
        children,
        torch.tensor([candidate for candidate, _ in edges], dtype=torch.long),
        torch.tensor([child for _, child in edges], dtype=torch.long),
        len(candidates),
        Trie(((*candidate, eos) for candidate in candidates), eos=eos),
    )
