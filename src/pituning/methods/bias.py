"""BitFit (Ben Zaken et al., ACL 2022) on Linear and LayerNorm alike: a learned difference of each bias.

PEFT's BEFT reaches Linear layers only; OFA's official BitFit trains the biases of LayerNorms too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from pituning.errors import ExpertError
from pituning.methods.registration import extend_peft_type, register
from pituning.methods.tuner import OwnModel, width_of


@dataclass
class BiasConfig(PeftConfig):  # type: ignore[misc]
    """Configuration of the learned bias differences, which start at 0.

    Args:
        target_modules: modules whose bias to train (Linear or LayerNorm).
        exclude_modules: modules to leave out although `target_modules` matches them.
        modules_to_save: other modules to train and save, such as a classification head.

    Example:
        >>> BiasConfig(target_modules=["fc1", "layer_norm"]).peft_type.value
        'BIAS'
    """

    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        """Name the type.

        Raises:
            ExpertError: there are no target modules.
        """
        super().__post_init__()
        self.peft_type = extend_peft_type("BIAS")
        if not self.target_modules:
            raise ExpertError(
                "target_modules must name the modules whose bias is trained",
                repr(self.target_modules),
                "Give names or a regular expression, or use method 'bitfit'.",
            )


class BiasLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A Linear or LayerNorm and what is added to its bias by each active adapter."""

    adapter_layer_names = ("bias_delta",)

    # Inherited from PEFT, which mypy does not read.
    active_adapters: list[str]
    disable_adapters: bool
    merged: bool
    get_base_layer: Callable[[], nn.Module]
    set_adapter: Callable[..., None]
    _move_adapter_to_device_of_base_layer: Callable[[str], None]

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BiasConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bias_delta = nn.ParameterDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BiasConfig) -> None:
        """Add the adapter `adapter_name`, a difference of 0."""
        self.bias_delta[adapter_name] = nn.Parameter(torch.zeros(width_of(self.get_base_layer(), "BitFit")))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output and the differences: `[..., in]` to `[..., width]`."""
        y: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return y
        for name in self.active_adapters:
            if name in self.bias_delta:
                y = y + self.bias_delta[name].to(y.dtype)
        return y

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the differences to the base layer's own bias.

        Raises:
            ExpertError: the base layer has none.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            self._add(name, 1.0)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take them off again."""
        while self.merged_adapters:
            self._add(self.merged_adapters.pop(), -1.0)

    def _add(self, name: str, sign: float) -> None:
        bias: Any = self.get_base_layer().bias
        if bias is None:
            raise ExpertError(
                "a bias difference merges into a bias",
                f"{type(self.get_base_layer()).__name__} without one",
                "Keep the adapter beside the model.",
            )
        bias.data += sign * self.bias_delta[name].data.to(bias.dtype)


class BiasModel(OwnModel):
    """PEFT's view of a model with learned bias differences; made by `peft.get_peft_model`."""

    prefix = "bias_delta"
    site = "outputs"
    tuner_layer_cls = BiasLayer


register("BIAS", BiasConfig, BiasModel)
