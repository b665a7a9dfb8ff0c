"""Models of two layers made from a configuration and a seed, and experts that were moved at random."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import peft
import torch
import transformers
from peft import LoraConfig, PeftConfig
from torch import Tensor, nn

from pituning.expert import Expert, ExpertCard, attach, attach_expert, initialisation_of, saved_tensors
from pituning.foundation import Frozen

SIZES = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "pad_token_id": 0}
CONFIGS: dict[str, Any] = {
    "bert": lambda: transformers.BertConfig(**SIZES, max_position_embeddings=16, num_labels=3),
    "llama": lambda: transformers.LlamaConfig(**SIZES, num_key_value_heads=1, bos_token_id=1, eos_token_id=2),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16),
    "t5": lambda: transformers.T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    ),
}
CLASSES = {
    "encoder": transformers.BertModel,
    "bert": transformers.BertForSequenceClassification,
    "llama": transformers.LlamaForCausalLM,
    "gpt2": transformers.GPT2LMHeadModel,
    "t5": transformers.T5ForConditionalGeneration,
}


def model_of(kind: str, seed: int = 0, **options: Any) -> nn.Module:
    """A model with random weights; `options` go into its configuration."""
    config = CONFIGS["bert" if kind == "encoder" else kind]()
    for name, value in options.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLASSES[kind](config).eval()


@cache
def frozen(kind: str = "encoder") -> Frozen:
    """One foundation a kind, shared: it must never change."""
    return Frozen(model_of(kind), name=kind)


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": ["query", "value"], **options})


def expert(
    name: str,
    config: PeftConfig | None = None,
    backbone: Frozen | None = None,
    *,
    init_seed: int = 0,
    labels: Sequence[str] = (),
    scale: float = 0.2,
    **card: Any,
) -> Expert:
    """An adapter from a common start, moved by random steps that depend on its name."""
    backbone = backbone or frozen()
    model = attach(backbone, config or lora(), labels=labels, seed=init_seed)
    initialisation = initialisation_of(model)
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=generator)
    facts = {
        "backbone": backbone.fingerprint,
        "initialisation": initialisation,
        "labels": list(labels),
        **card,
    }
    return Expert(
        ExpertCard(name=name, task=name, **facts), model.peft_config["default"], saved_tensors(model)
    )


def inputs(kind: str = "encoder", rows: int = 3, length: int = 5, seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(3, 32, (rows, length), generator=torch.Generator().manual_seed(seed))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return batch | ({"decoder_input_ids": ids[:, :3]} if kind == "t5" else {})


@torch.no_grad()
def outputs(model: nn.Module, kind: str = "encoder") -> Tensor:
    """Logits, or the last hidden states where there are none."""
    found = model.eval()(**inputs(kind))
    return found.last_hidden_state if kind == "encoder" else found.logits


def loss_of(model: nn.Module, kind: str = "encoder", rows: int = 3) -> Tensor:
    """Some smooth function of the outputs that is not constant under layer norm."""
    found = model(**inputs(kind, rows))
    found = found.last_hidden_state if kind == "encoder" else found.logits
    return (found * torch.linspace(-1, 1, found.numel(), device=found.device).view_as(found)).sum()


def outputs_of(one: Expert, kind: str = "encoder") -> Tensor:
    return outputs(attach_expert(frozen(kind), one), kind)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal as integers, the sign of a zero aside (0.5 x + 0.5 y has none to keep)."""
    integers = {4: torch.int32, 8: torch.int64, 2: torch.int16}[a.element_size()]
    a, b = a + 0.0, b + 0.0
    return a.shape == b.shape and torch.equal(a.contiguous().view(integers), b.contiguous().view(integers))


def same_tensors(a: Expert, b: Expert) -> bool:
    return set(a.tensors) == set(b.tensors) and all(same_bits(a.tensors[n], b.tensors[n]) for n in a.tensors)


VARIANTS: dict[str, PeftConfig] = {
    "lora": lora(),
    "dora": lora(use_dora=True),
    "rslora": lora(use_rslora=True, r=3),
    "lora_bias": lora(lora_bias=True),
    "bias_all": lora(bias="all"),
    "bias_lora_only": lora(bias="lora_only"),
    "patterns": lora(rank_pattern={"layer.0.attention.self.query": 3}, alpha_pattern={"value": 9}),
    "pissa": lora(init_lora_weights="pissa"),
    "embedding": lora(target_modules=["word_embeddings", "query"]),
    "ia3": peft.IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"]),
    "vera": peft.VeraConfig(r=4, target_modules=["query", "value"], save_projection=True),
    "lokr": peft.LoKrConfig(r=2, alpha=8, target_modules=["query", "value"]),
    "prefix": peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2),
    "prompt": peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2),
}
