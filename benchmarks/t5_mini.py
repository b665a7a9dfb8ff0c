"""A T5 of ofa-mini's width and depth, pre-trained on the same texts: the paper's Table 3 has a T5 beside OFA.

As ofa-mini, it learns from the answers, and from which words of two texts differ, which a layer that is not
kept says of each word: from answers alone, with AdamW, it did not learn that (22 % of `comparing` after 5,000
steps). Adafactor, T5's own optimiser, takes steps in proportion to a matrix, of which T5's begin very unlike;
and in the first layer a word begins by looking at words like it.

python benchmarks/t5_mini.py            # work/t5/model; goes on where it was stopped
python benchmarks/suites.py t5 pool     # then `full` and `tune`: see suites.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from few_shot import write
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from pituning.backbones.base import pad
from pituning.pretrain.config import SHAPE, PretrainConfig
from pituning.pretrain.lesson import dense_loss
from pituning.pretrain.mixture import Mixture
from pituning.pretrain.samples import Sample, word_labels
from pituning.provenance import provenance
from pituning.weights import OFA_MINI

HERE = Path(__file__).parent
WORK, RESULTS = HERE / "work" / "t5", HERE / "results" / "t5_mini.json"
MODEL = WORK / "model"
STEPS, BATCH, RATE, WARMUP, EVERY = 5000, 64, 1e-2, 200, 250
SAMPLES = 256  # of each skill, to see what was learnt


def tokenizer() -> PreTrainedTokenizerFast:
    """The pieces of ofa-mini; a text ends with `</s>`, as T5's do."""
    pieces = Tokenizer.from_file(str(OFA_MINI / "tokenizer.json"))
    end = ("</s>", pieces.token_to_id("</s>"))
    pieces.post_processor = TemplateProcessing(single="$A </s>", pair="$A $B </s>", special_tokens=[end])
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def network(words: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(words),
        d_model=SHAPE["d_model"],
        d_kv=SHAPE["d_model"] // SHAPE["encoder_attention_heads"],
        d_ff=SHAPE["encoder_ffn_dim"],
        num_heads=SHAPE["encoder_attention_heads"],
        num_layers=SHAPE["encoder_layers"],
        num_decoder_layers=SHAPE["decoder_layers"],
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        decoder_start_token_id=words.pad_token_id,
    )
    model = T5ForConditionalGeneration(config)
    first = model.encoder.block[0].layer[0].SelfAttention
    with torch.no_grad():  # T5's keys begin larger than its queries by this factor
        first.k.weight.copy_(first.q.weight * config.d_kv**0.5)
    return model


def batch_of(samples: Sequence[Sample], words: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    batch = words([sample.text for sample in samples], padding=True, return_tensors="pt")
    answers = words([str(sample.answer) for sample in samples], padding=True, return_tensors="pt")
    labels = answers["input_ids"].masked_fill(answers["attention_mask"] == 0, -100)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


def word_labels_of(samples: Sequence[Sample], words: PreTrainedTokenizerFast) -> Tensor:
    """int64 [samples, tokens], as `word_labels` has them: of a source that begins with `<s>`, unlike T5's."""
    sources = words([sample.text for sample in samples])["input_ids"]
    pairs = zip(samples, sources, strict=True)
    return pad([word_labels(sample, [0, *source], words)[1:] for sample, source in pairs], -100)[0]


@torch.no_grad()
def skills(
    model: T5ForConditionalGeneration, words: PreTrainedTokenizerFast, mixture: Mixture
) -> dict[str, float]:
    """The share of the answers to fresh samples of each skill that are right, written greedily."""
    found = {}
    for name, (make, _) in mixture.texts.items():
        rng, right = Random(f"benchmark {name}"), 0
        for _ in range(SAMPLES // BATCH):
            samples = [make(rng) for _ in range(BATCH)]
            asked = batch_of(samples, words)
            asked.pop("labels")
            written = words.batch_decode(model.generate(**asked, max_new_tokens=24), skip_special_tokens=True)
            pairs = zip(written, samples, strict=True)
            right += sum(one.split() == str(sample.answer).split() for one, sample in pairs)
        found[name] = right / SAMPLES
    return found


def main() -> None:
    torch.set_num_threads(1)
    words, mixture = tokenizer(), Mixture.of(PretrainConfig())
    model = network(words)
    differs = nn.Linear(model.config.d_model, 2)
    learner = nn.ModuleList([model, differs])
    optimiser = torch.optim.Adafactor(learner.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / WARMUP, (STEPS - step) / (STEPS - WARMUP))
    )
    file, curve = WORK / "checkpoint.pt", []
    if file.exists():
        learner_state, optimiser_state, schedule_state, curve = torch.load(file, weights_only=True)
        learner.load_state_dict(learner_state)
        optimiser.load_state_dict(optimiser_state)
        schedule.load_state_dict(schedule_state)
    said = differing = 0.0
    for step in range(schedule.last_epoch, STEPS):
        _, samples = mixture.samples(Random(f"t5 step {step}"), BATCH, share=0.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(**batch_of(samples, words))
            dense = dense_loss(differs(found.encoder_last_hidden_state), word_labels_of(samples, words))
        optimiser.zero_grad(set_to_none=True)
        (found.loss + dense).backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        said, differing = said + found.loss.item(), differing + dense.item()
        if (step + 1) % EVERY == 0:
            curve.append({"step": step + 1, "loss": said / EVERY, "words": differing / EVERY})
            said = differing = 0.0
            print(curve[-1], flush=True)
            state = (learner.state_dict(), optimiser.state_dict(), schedule.state_dict(), curve)
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)
    model.save_pretrained(MODEL)
    words.save_pretrained(MODEL)
    found = {"parameters": model.num_parameters(), "samples": SAMPLES}
    found |= {"skills": skills(model.eval(), words, mixture), "curve": curve}
    write(RESULTS, found | provenance())


if __name__ == "__main__":
    main()
