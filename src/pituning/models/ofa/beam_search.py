"""Beam search as OFA's official code does it, which differs from transformers' in what it keeps.

A hypothesis ends when `</s>` is among the best `num_beams` continuations of a step; a sample is done as soon
as `num_beams` have ended, whatever might still score better; scores are divided by their length, `</s>`
included. The trie takes part in the softmax. Letters: b samples, k beams, v vocabulary, n tokens so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation import GenerateBeamEncoderDecoderOutput

from pituning.models.ofa.trie import Trie

LOWEST = float("-inf")
UNK = 3
"""Id of `<unk>` in every fairseq dictionary."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A finished answer.

    Args:
        tokens: behind the decoder's start, the end included.
        score: sum of `positional_scores`, over their number to the power of the length penalty.
        positional_scores: log-probability of each token.
    """

    tokens: list[int]
    score: float
    positional_scores: list[float]


@dataclass
class OfaBeamOutput(GenerateBeamEncoderDecoderOutput):  # type: ignore[misc]
    """What `generate(return_dict_in_generate=True)` returns.

    Args:
        hypotheses: for each sample the finished ones, best first.
    """

    hypotheses: list[list[Hypothesis]] | None = None


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What may be written.

    Args:
        trie: allowed sequences, from the start token on.
        prefix_tokens: tokens to begin with, int64 [b, longest], padding at the end; the trie begins after.
        soft_prefix: do as π-Tuning's copy of the code does where there is no trie: other tokens than the
            prefix's stay possible, as unlikely as the least likely prefix token of the batch and a nat more
            (padding behind a shorter prefix counts as one).
        token_range: of the ordinary tokens (from 4 on) only those from its first to before its last.
        unk_penalty: taken off the log-probability of `<unk>`.
    """

    trie: Trie | None = None
    prefix_tokens: Tensor | None = None
    soft_prefix: bool = False
    token_range: tuple[int, int] | None = None
    unk_penalty: float = 0.0


def ofa_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: Any,
    generation_config: GenerationConfig,
    constraints: Constraints = Constraints(),
    normalize_scores: bool = True,
    **model_kwargs: Any,
) -> Tensor | OfaBeamOutput:
    """The decoding loop that `generate` runs through its `custom_generate`.

    Args:
        model: OfaForConditionalGeneration.
        input_ids: the decoder's start, int64 [b * k, 1].
        logits_processor: applied to log-probabilities.
        stopping_criteria: not used; the search ends at `max_length`.
        generation_config: of transformers.
        constraints: see Constraints.
        normalize_scores: False leaves scores as sums of log-probabilities.
        model_kwargs: for the model's forward.
    """
    config: Any = generation_config
    search = _Search(model, input_ids, logits_processor, config, constraints, normalize_scores)
    beam_order: Tensor | None = None
    for _ in range(search.max_len + 1):
        if beam_order is not None and model_kwargs.get("past_key_values") is not None:
            model_kwargs["past_key_values"].reorder_cache(beam_order)
        fed = (
            search.tokens
            if not model_kwargs.get("use_cache") or beam_order is None
            else search.tokens[:, -1:]
        )
        output = model(**{**model_kwargs, "decoder_input_ids": fed, "input_ids": None, "return_dict": True})
        if model_kwargs.get("use_cache"):
            model_kwargs["past_key_values"] = output.past_key_values
        beam_order = search.step(output.logits[:, -1].float())
        if search.done:
            break
    return search.result(input_ids)


@final
class _Search:
    """The state of a search: tokens [b * k, n] and their cumulated log-probabilities."""

    def __init__(
        self,
        model: Any,
        start: Tensor,
        processor: LogitsProcessorList,
        config: Any,
        constraints: Constraints,
        normalize: bool,
    ) -> None:
        self.processor, self.config, self.constraints, self.normalize = (
            processor,
            config,
            constraints,
            normalize,
        )
        self.beams = config.num_beams
        self.pad, self.unk = model.config.pad_token_id, UNK
        self.eos = int(model.config.eos_token_id)
        self.first, self.start = model.config.decoder_start_token_id, start.shape[1]
        self.max_len = config.max_length - self.start - 1
        self.tokens = start
        self.samples = start.shape[0] // self.beams
        self.scores = torch.zeros(len(start), 0, device=start.device)  # cumulated, one a written token
        self.ignored = torch.zeros(self.samples, self.beams, dtype=torch.bool, device=start.device)
        self.finished: list[list[Hypothesis]] = [[] for _ in range(self.samples)]

    @property
    def written(self) -> int:
        """Tokens behind the start."""
        return self.tokens.shape[1] - self.start

    @property
    def done(self) -> bool:
        """Whether every sample has its hypotheses."""
        return all(len(found) == self.beams for found in self.finished) or self.written > self.max_len

    def step(self, logits: Float[Tensor, "rows vocabulary"]) -> Int[Tensor, " rows"]:
        """Write one token more; the rows that the beams went on from."""
        scores = self._log_probabilities(logits)
        if self.written:
            scores = scores + self.scores[:, -1:]
        vocabulary = scores.shape[1]
        scores = scores.view(self.samples, self.beams, vocabulary)
        if not self.written:
            scores = scores[:, :1]  # all beams are alike
        flat = scores.flatten(1)
        best, index = flat.topk(min(2 * self.beams, flat.shape[1] - 1))
        token, beam = index % vocabulary, index // vocabulary
        rows = beam + torch.arange(self.samples, device=beam.device)[:, None] * self.beams
        ends = token.eq(self.eos) & best.ne(LOWEST)
        ends[:, : self.beams] &= ~self.ignored
        self._finish(ends[:, : self.beams], best, rows)
        gone = ends.clone()
        gone[:, : self.beams] |= self.ignored
        place = torch.arange(gone.shape[1], device=gone.device) + gone * gone.shape[1]
        place, kept = place.topk(self.beams, largest=False)
        self.ignored = place >= gone.shape[1]
        order: Tensor = rows.gather(1, kept).flatten()
        self.tokens = torch.cat([self.tokens[order], token.gather(1, kept).view(-1, 1)], dim=1)
        self.scores = torch.cat([self.scores[order], best.gather(1, kept).view(-1, 1)], dim=1)
        return order

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        limits, last = self.constraints, self.written >= self.max_len
        masked = self._masked(logits / self.config.temperature if self.config.temperature else logits)
        scores: Tensor = self.processor(self.tokens, masked.log_softmax(dim=-1))
        prefix = limits.prefix_tokens
        if last:
            end = scores[:, self.eos].clone()
            scores[:] = LOWEST
            scores[:, self.eos] = end
        elif prefix is not None and self.written < prefix.shape[1]:
            self._force(scores, prefix[:, self.written].repeat_interleave(self.beams))
        scores[:, self.pad] = LOWEST
        scores[:, self.unk] -= limits.unk_penalty
        return scores

    def _masked(self, logits: Tensor) -> Tensor:
        """Logits of what the range and the trie leave out are -∞."""
        limits = self.constraints
        if limits.token_range is not None:
            logits = logits.clone()
            logits[:, 4 : limits.token_range[0]] = LOWEST
            logits[:, limits.token_range[1] :] = LOWEST
        if limits.trie is None:
            return logits
        mask = torch.zeros_like(logits, dtype=torch.bool)
        for row, tokens in enumerate(self.tokens[:, self.start :].tolist()):
            forced = self._forced(row)
            inside = len(tokens) >= forced
            mask[row, limits.trie.after([self.first, *tokens[forced:]]) if inside else ...] = True
        return logits.masked_fill(~mask, LOWEST)

    def _forced(self, row: int) -> int:
        """Number of tokens that the row's prefix forces."""
        prefix = self.constraints.prefix_tokens
        return 0 if prefix is None else int(prefix[row // self.beams].ne(self.pad).sum())

    def _force(self, scores: Tensor, wanted: Tensor) -> None:
        """Leave only the prefix's tokens where `wanted` is not padding.

        The soft way takes the least likely of the whole batch, where prefixes that have ended count with the
        log-probability of padding.
        """
        chosen = scores.gather(1, wanted[:, None])
        rows = wanted.ne(self.pad)
        soft = self.constraints.soft_prefix and self.constraints.trie is None
        scores[rows] = chosen.min() - 1 if soft else LOWEST
        scores[rows] = scores[rows].scatter(1, wanted[rows, None], chosen[rows])

    def _finish(self, ends: Tensor, best: Tensor, rows: Tensor) -> None:
        """Keep the hypotheses that end here, in the order of their scores, up to `beams` a sample."""
        length = self.written + 1
        for sample, place in ends.nonzero().tolist():
            if len(self.finished[sample]) == self.beams:
                continue
            row, total = int(rows[sample, place]), float(best[sample, place])
            cumulated = [*self.scores[row].tolist(), total]
            each = [now - before for now, before in zip(cumulated, [0.0, *cumulated], strict=False)]
            score = total / length**self.config.length_penalty if self.normalize else total
            tokens = [*self.tokens[row, self.start :].tolist(), self.eos]
            self.finished[sample].append(Hypothesis(tokens=tokens, score=score, positional_scores=each))

    def result(self, start: Tensor) -> Tensor | OfaBeamOutput:
        """The best `num_return_sequences` of each sample, behind their start, padded."""
        nothing = Hypothesis(tokens=[self.eos], score=LOWEST, positional_scores=[LOWEST])
        ranked = [sorted(found, key=lambda h: h.score, reverse=True) or [nothing] for found in self.finished]
        many = self.config.num_return_sequences
        chosen = [(found + found[-1:] * many)[:many] for found in ranked]
        longest = max(len(h.tokens) for found in chosen for h in found)
        rows = [h.tokens + [self.pad] * (longest - len(h.tokens)) for found in chosen for h in found]
        first = start[:: self.beams].repeat_interleave(many, dim=0)
        sequences = torch.cat([first, torch.tensor(rows, device=start.device)], dim=1)
        if not self.config.return_dict_in_generate:
            return sequences
        scores = torch.tensor([h.score for found in chosen for h in found])
        return OfaBeamOutput(sequences=sequences, sequences_scores=scores, hypotheses=ranked)
