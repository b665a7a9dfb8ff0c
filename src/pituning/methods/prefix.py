"""Prefix tuning (Li and Liang, 2021) in the self-attention of every layer, of encoder and decoder alike.

PEFT's prefix tuning travels through the cache of keys and values, so it reaches decoders only. Here each
self-attention module holds its own learned keys and values; see `prefix_attention` for what they do. As in
the official π-Tuning code there is no reparametrisation, and they start from N(0, 0.02).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn

from pituning.errors import ExpertError
from pituning.methods import prefix_attention
from pituning.methods.registration import extend_peft_type, register
from pituning.methods.tuner import OwnModel, UnmergeableLayer
from pituning.seed import portable_normal


@dataclass
class SelfAttentionPrefixConfig(PeftConfig):  # type: ignore[misc]
    """Configuration of the self-attention prefix.

    Args:
        prefix_length: learned positions in each self-attention.
        dropout: probability on the learned keys and values, in training only.
        init_std: standard deviation of their initial values.
        target_modules: self-attention modules; None takes the sites known for the architecture.
        exclude_modules: modules to leave out although `target_modules` matches them.
        modules_to_save: other modules to train and save, such as a classification head.

    Example:
        >>> SelfAttentionPrefixConfig(prefix_length=5).peft_type.value
        'SELF_ATTENTION_PREFIX'
    """

    prefix_length: int = 20
    dropout: float = 0.0
    init_std: float = 0.02
    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            ExpertError: a value is outside its range; all faults at once.
        """
        super().__post_init__()
        self.peft_type = extend_peft_type("SELF_ATTENTION_PREFIX")
        fix = "Change it in the SelfAttentionPrefixConfig."
        faults = []
        if self.prefix_length < 1:
            faults.append(ExpertError("prefix_length must be at least 1", str(self.prefix_length), fix))
        if not 0 <= self.dropout < 1:
            faults.append(ExpertError("dropout must be in [0, 1)", str(self.dropout), fix))
        if self.init_std < 0:
            faults.append(ExpertError("init_std must not be negative", str(self.init_std), fix))
        ExpertError.collect(faults)


class SelfAttentionPrefixLayer(nn.Module, UnmergeableLayer):
    """A self-attention module with the prefixes of its adapters, each `[kv_heads, length, head_dim]`."""

    adapter_layer_names = ("prefix_key", "prefix_value")
    other_param_names = ("prefix_dropout",)

    # Inherited from PEFT, which mypy does not read.
    active_adapters: list[str]
    disable_adapters: bool
    get_base_layer: Callable[[], nn.Module]
    set_adapter: Callable[..., None]

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: SelfAttentionPrefixConfig) -> None:
        super().__init__()
        if not prefix_attention.supports(base_layer):
            raise ExpertError(
                must="a prefix needs self-attention modules that use the attention interface of transformers",
                given=type(base_layer).__name__,
                fix="Choose another method, or other target_modules.",
            )
        self.base_layer: Any = base_layer
        self.prefix_key = nn.ParameterDict()
        self.prefix_value = nn.ParameterDict()
        self.prefix_dropout: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)
        prefix_attention.switch_on(base_layer)
        # Past nn.Module.__setattr__, which would make this layer a child of its own child.
        base_layer.__dict__[prefix_attention.LINK] = self

    def update_layer(self, adapter_name: str, config: SelfAttentionPrefixConfig) -> None:
        """Add the adapter `adapter_name` with a new prefix."""
        kv_heads, head_dim = _kv_shape(self.get_base_layer())
        weight = next(self.get_base_layer().parameters())
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        for prefix in (self.prefix_key, self.prefix_value):
            values = portable_normal((kv_heads, config.prefix_length, head_dim), config.init_std)
            prefix[adapter_name] = nn.Parameter(values.to(weight.device, dtype))
        self.prefix_dropout[adapter_name] = config.dropout
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the self-attention, which reads the prefix through `prefix_for`."""
        if not prefix_attention.is_on(self.base_layer):
            raise ExpertError(
                must="a model with a prefix must keep the attention implementation that the prefix set",
                given=repr(self.base_layer.config._attn_implementation),
                fix="Set the attention implementation before the prefix is added.",
            )
        return self.base_layer(*args, **kwargs)

    def prefix_for(self, key: Tensor) -> tuple[Tensor, Tensor] | None:
        """The active prefixes in a row, for the batch of `key` `[batch, kv_heads, keys, head_dim]`."""
        names = [] if self.disable_adapters else [n for n in self.active_adapters if n in self.prefix_key]
        if not names:
            return None
        keys = torch.cat([self._batch(self.prefix_key, name, key) for name in names], dim=2)
        values = torch.cat([self._batch(self.prefix_value, name, key) for name in names], dim=2)
        return keys, values

    def _batch(self, prefix: nn.ParameterDict, name: str, like: Tensor) -> Tensor:
        expanded = prefix[name].to(like.dtype).expand(like.shape[0], -1, -1, -1)
        return nn.functional.dropout(expanded, self.prefix_dropout[name], self.training)

    def unload_and_optionally_merge_module(self, merge: bool, **_: Any) -> nn.Module:
        """Give the self-attention back as it was.

        Raises:
            ExpertError: `merge` is asked for.
        """
        if merge:
            self.merge()
        base: nn.Module = self.get_base_layer()
        del base.__dict__[prefix_attention.LINK]
        prefix_attention.switch_off(base)
        return base


def _kv_shape(attention: nn.Module) -> tuple[int, int]:
    """Number and width of the heads of the keys of an attention module, by the names in transformers."""
    width = _first(attention, ("head_dim", "attention_head_size", "key_value_proj_dim"))
    projection = _first(attention, ("k_proj", "k", "key", "k_lin"))
    if projection is not None and width is not None:
        return projection.out_features // width, width
    heads = _first(attention, ("num_key_value_heads", "num_heads", "num_attention_heads", "n_heads"))
    if heads is None or width is None:
        raise ExpertError(
            must="a prefix needs self-attention modules whose heads can be counted",
            given=type(attention).__name__,
            fix="Choose other target_modules or another method.",
        )
    return heads, width


def _first(module: nn.Module, names: tuple[str, ...]) -> Any:
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)


class SelfAttentionPrefixModel(OwnModel):
    """PEFT's view of a model with self-attention prefixes; made by `peft.get_peft_model`."""

    prefix = "prefix_"
    site = "attention"
    tuner_layer_cls = SelfAttentionPrefixLayer

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        """Put `new_module` in place; PEFT's own way copies a weight, and attention modules have none."""
        setattr(parent, child_name, new_module)


register("SELF_ATTENTION_PREFIX", SelfAttentionPrefixConfig, SelfAttentionPrefixModel)
