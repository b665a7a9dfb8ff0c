"""PEFT methods: named shortcuts, and two that PEFT lacks (bottleneck adapter, self-attention prefix)."""

from pituning.methods.bottleneck import BottleneckConfig
from pituning.methods.prefix import SelfAttentionPrefixConfig
from pituning.methods.shortcuts import METHOD_NAMES, peft_config

__all__ = ["METHOD_NAMES", "BottleneckConfig", "SelfAttentionPrefixConfig", "peft_config"]
