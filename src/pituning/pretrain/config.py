"""Everything that pre-training depends on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pituning.errors import ConfigError

SHAPE: dict[str, Any] = {
    "d_model": 192,
    "encoder_layers": 4,
    "decoder_layers": 3,
    "encoder_ffn_dim": 576,
    "decoder_ffn_dim": 576,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "token_bucket_size": 32,
    "image_bucket_size": 12,  # 96 pixels
    "max_position_embeddings": 256,
    "code_image_size": 64,
    "resnet_layers": (1, 1, 1),
    "resnet_planes": (24, 48, 96),
    "resnet_max_pool": False,
    "freeze_batch_norm": False,
    "entangle_position_embedding": True,  # else a patch says where it is to attention alone
    "init_std": 0.08,  # a width of 192 learns nothing from pictures for a thousand steps with 0.02
}
"""Of `ofa-mini`. Batch norm learns its statistics here and is frozen in the model that is saved."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How `ofa-mini` is made."""

    steps: int = field(default=6_000, metadata={"help": "updates of the first cycle"})
    more_steps: int = field(default=2_400, metadata={"help": "updates of the second, with more text"})
    batch_size: int = field(default=128, metadata={"help": "examples an update, shared by the processes"})
    processes: int = field(
        default=2, metadata={"help": "that train together, each on one thread; one on a GPU"}
    )
    learning_rate: float = field(default=8e-4, metadata={"help": "peak of each cycle"})
    warmup: float = field(default=0.03, metadata={"help": "part of a cycle over which the rate rises"})
    weight_decay: float = field(default=0.02, metadata={"help": "decoupled, as in AdamW"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    pieces: int = field(default=4000, metadata={"help": "size of the byte-level BPE vocabulary"})
    bins: int = field(default=64, metadata={"help": "box tokens"})
    checkpoint_every: int = field(default=250, metadata={"help": "updates between checkpoints"})
    fp32: bool = field(default=False, metadata={"help": "multiply in float32, not in bfloat16"})
    emoji: Path | None = field(default=None, metadata={"help": "folder of npm emoji-datasource-google"})
    wordnet: Path | None = field(default=None, metadata={"help": "folder of Debian's wordnet-base"})
    seed: int = field(default=0, metadata={"help": "of weights, pictures, texts and their order"})

    @property
    def updates(self) -> int:
        """In all."""
        return self.steps + self.more_steps

    def facts(self) -> dict[str, Any]:
        """For JSON: of the sources, whether they were there."""
        return {**asdict(self), "emoji": self.emoji is not None, "wordnet": self.wordnet is not None}

    def __post_init__(self) -> None:
        """Collect what is out of range."""
        ConfigError.check_numbers(self)
        least = {
            "steps": 1,
            "more_steps": 0,
            "batch_size": 1,
            "processes": 1,
            "pieces": 300,
            "bins": 2,
            "checkpoint_every": 1,
        }
        faults = [
            ConfigError(f"{name} must be at least {low}", str(getattr(self, name)), f"Raise {name}.")
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        ConfigError.collect(faults)
