"""PEFT methods: named shortcuts, and three that PEFT lacks (bottleneck adapter, prefix, bias)."""

from pituning.methods.bias import BiasConfig
from pituning.methods.bottleneck import BottleneckConfig
from pituning.methods.prefix import SelfAttentionPrefixConfig
from pituning.methods.shortcuts import METHOD_NAMES, peft_config

__all__ = ["METHOD_NAMES", "BiasConfig", "BottleneckConfig", "SelfAttentionPrefixConfig", "peft_config"]
