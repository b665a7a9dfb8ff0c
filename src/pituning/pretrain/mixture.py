"""What a step of pre-training sees: pictures or text, of several skills each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from torch import Tensor

from pituning.decoding import DecoderPrompt
from pituning.mini20.definition import PIXELS
from pituning.models.ofa import OfaTokenizer
from pituning.pretrain.config import PretrainConfig
from pituning.pretrain.real import emoji_skills, gloss_skills
from pituning.pretrain.samples import Sample, collate
from pituning.pretrain.skills import PICTURES, TEXTS, Skill
from pituning.pretrain.sources import read_emoji, read_glosses

WITH_PICTURES = (0.7, 0.6)
"""Share of the steps in the first cycle and the second; a step on text takes half the time."""

CHUNK = 8
"""Samples of one skill in a batch."""

QUESTIONS = {"matching", "listing", "defining", "reading", "comparing"}
PROMPTED = 0.5
"""Share of the chunks of `QUESTIONS` whose decoder reads the text first, as some of OFA's datasets want."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Skills with their shares, of each kind."""

    pictures: Mapping[str, tuple[Skill, float]]
    texts: Mapping[str, tuple[Skill, float]]

    @classmethod
    def of(cls, config: PretrainConfig) -> Mixture:
        """The generated skills, and those of the sources that are there.

        Raises:
            TaskError: a source is not what it should be.
        """
        emoji = emoji_skills(read_emoji(config.emoji)) if config.emoji else {}
        glosses = gloss_skills(read_glosses(config.wordnet)) if config.wordnet else {}
        return cls(pictures={**PICTURES, **emoji}, texts={**TEXTS, **glosses})

    def samples(self, rng: Random, count: int, share: float = 0.5) -> tuple[str, list[Sample]]:
        """The kind of a step and its samples: all with pictures or none, as blank ones cost as much.

        `share` says how often they have pictures.
        """
        kind = "pictures" if rng.random() < share else "text"
        skills = self.pictures if kind == "pictures" else self.texts
        weights = [share for _, share in skills.values()]
        found: list[Sample] = []
        for name in rng.choices(list(skills), weights, k=-(-count // CHUNK)):
            make, prompted = skills[name][0], name in QUESTIONS and rng.random() < PROMPTED
            prompt: DecoderPrompt = rng.choice(("src", "prev_output")) if prompted else "none"
            found += [replace(make(rng), decoder_prompt=prompt) for _ in range(CHUNK)]
        return kind, found[:count]

    def batch(
        self, step: int, part: int, config: PretrainConfig, tokenizer: OfaTokenizer
    ) -> tuple[str, dict[str, Tensor]]:
        """The kind of a step and one part of its batch, which follow from the seed and the step's number."""
        share = WITH_PICTURES[step >= config.steps]
        kind, samples = self.samples(Random(f"{config.seed} step {step}"), config.batch_size, share)
        return kind, collate(samples[part :: config.processes], tokenizer, PIXELS)
