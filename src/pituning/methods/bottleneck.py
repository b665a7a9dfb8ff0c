"""The bottleneck adapter of Houlsby et al. (2019): a small network after attention and after feed-forward.

`y = base(x)`, then `y + scaling * up(dropout(act(down(y))))`. `base` is the output projection of a
self-attention or of a feed-forward network, the two places of the original paper. Initialisation as in the
official π-Tuning code: weights N(0, 0.02), biases 0; `up` does not start at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from peft import PeftConfig
from torch import Tensor, nn

from pituning.errors import ExpertError
from pituning.methods.registration import extend_peft_type, register
from pituning.methods.tuner import OwnModel, UnmergeableLayer, width_of
from pituning.seed import portable_normal

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": nn.functional.relu, "gelu": nn.functional.gelu}


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]
    """Configuration of the bottleneck adapter.

    Args:
        bottleneck_size: width of the hidden layer.
        non_linearity: "relu" or "gelu".
        dropout: probability on the hidden layer, in training only.
        scaling: factor on the adapter's output.
        init_std: standard deviation of the initial weights.
        target_modules: modules to follow (Linear or LayerNorm); None: the sites known for the architecture.
        exclude_modules: modules to leave out although `target_modules` matches them.
        modules_to_save: other modules to train and save, such as a classification head.

    Example:
        >>> BottleneckConfig(bottleneck_size=16).peft_type.value
        'BOTTLENECK_ADAPTER'
    """

    bottleneck_size: int = 64
    non_linearity: Literal["relu", "gelu"] = "relu"
    dropout: float = 0.0
    scaling: float = 1.0
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
        self.peft_type = extend_peft_type("BOTTLENECK_ADAPTER")
        faults = []
        if self.bottleneck_size < 1:
            faults.append(_fault("bottleneck_size must be at least 1", self.bottleneck_size))
        if self.non_linearity not in ACTIVATIONS:
            faults.append(_fault("non_linearity must be relu or gelu", self.non_linearity))
        if not 0 <= self.dropout < 1:
            faults.append(_fault("dropout must be in [0, 1)", self.dropout))
        if self.init_std < 0:
            faults.append(_fault("init_std must not be negative", self.init_std))
        ExpertError.collect(faults)


def _fault(must: str, given: object) -> ExpertError:
    return ExpertError(must, repr(given), "Change it in the BottleneckConfig.")


class BottleneckLayer(nn.Module, UnmergeableLayer):
    """A Linear or LayerNorm followed by the active bottleneck adapters, one after the other."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_config",)

    # Inherited from PEFT, which mypy does not read.
    active_adapters: list[str]
    disable_adapters: bool
    get_base_layer: Callable[[], nn.Module]
    set_adapter: Callable[..., None]
    _move_adapter_to_device_of_base_layer: Callable[[str], None]

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_config: dict[str, BottleneckConfig] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add the adapter `adapter_name` with new weights."""
        width = width_of(self.get_base_layer(), "a bottleneck adapter")
        down, up = nn.Linear(width, config.bottleneck_size), nn.Linear(config.bottleneck_size, width)
        for linear in (down, up):
            with torch.no_grad():
                linear.weight.copy_(portable_normal(linear.weight.shape, config.init_std))
            nn.init.zeros_(linear.bias)
        self.bottleneck_down[adapter_name] = down
        self.bottleneck_up[adapter_name] = up
        self.bottleneck_config[adapter_name] = config
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the base layer, then each active adapter: `[..., in]` to `[..., width]`."""
        y: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return y
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                y = self.adapted(name, y)
        return y

    def adapted(self, name: str, y: Tensor) -> Tensor:
        """What follows one adapter: the base layer's output, `[..., width]`, and the change."""
        config = self.bottleneck_config[name]
        down, up = cast(nn.Linear, self.bottleneck_down[name]), cast(nn.Linear, self.bottleneck_up[name])
        hidden = ACTIVATIONS[config.non_linearity](down(y.to(down.weight.dtype)))
        change: Tensor = up(nn.functional.dropout(hidden, config.dropout, self.training))
        return y + config.scaling * change.to(y.dtype)


class BottleneckModel(OwnModel):
    """PEFT's view of a model with bottleneck adapters; made by `peft.get_peft_model`."""

    prefix = "bottleneck_"
    site = "outputs"
    tuner_layer_cls = BottleneckLayer


register("BOTTLENECK_ADAPTER", BottleneckConfig, BottleneckModel)
