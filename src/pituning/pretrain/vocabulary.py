"""The vocabulary of `ofa-mini`: byte-level BPE learnt from the texts that it is pre-trained on."""

from __future__ import annotations

import json
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pituning.models.ofa import OfaTokenizer
from pituning.pretrain.config import PretrainConfig
from pituning.pretrain.mixture import Mixture
from pituning.pretrain.samples import Sample

TEXTS = 3_000
"""Batches of eight whose texts the pieces are learnt from."""


def learn_vocabulary(config: PretrainConfig, mixture: Mixture) -> OfaTokenizer:
    """Pieces by frequency in the texts and answers of the skills; the same for the same configuration."""
    rng = Random(f"{config.seed} vocabulary")
    samples = [one for _ in range(TEXTS) for one in mixture.samples(rng, 8)[1]]
    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.pieces,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    whole.train_from_iterator((text for sample in samples for text in _texts(sample)), trainer)
    model = json.loads(whole.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [(left, right) for left, right in model["merges"]]
    return OfaTokenizer.of_pieces(pieces, merges, codes=0, bins=config.bins)


def _texts(sample: Sample) -> list[str]:
    parts = sample.answer if isinstance(sample.answer, list) else [sample.answer]
    return [sample.text.replace("{box}", ""), *(" " + part for part in parts if isinstance(part, str))]
