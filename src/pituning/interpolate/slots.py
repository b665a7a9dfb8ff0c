"""The tensors of an adapter that a mixture computes instead of holding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from pituning.expert import is_head


@dataclass(frozen=True)
class Slot:
    """Where an adapter's forward reads one of its parameters.

    Attributes:
        name: of the parameter in the adapted model.
        module: name of the adapted module that it belongs to, without PEFT's wrapping.
    """

    name: str
    module: str
    owner: nn.Module
    leaf: str
    shape: torch.Size
    dtype: torch.dtype

    def empty(self) -> None:
        """Take the parameter out, so that a computed tensor can stand there."""
        del self.owner._parameters[self.leaf]

    def fill(self, value: Tensor) -> None:
        """Put a computed tensor where the parameter was."""
        self.owner.__dict__[self.leaf] = value.view(self.shape).to(self.dtype)

    def converted(self, fn: Callable[[Tensor], Tensor]) -> Slot:
        """The slot after the model's tensors went through `fn` (a cast, a move)."""
        return replace(self, dtype=fn(torch.empty(0, dtype=self.dtype)).dtype)

    @property
    def value(self) -> Tensor:
        """The computed tensor that stands there."""
        value: Tensor = self.owner.__dict__[self.leaf]
        return value


def adapter_parameters(model: PeftModel) -> Iterator[tuple[str, nn.Parameter]]:
    """The trainable parameters of the adapter, without the task's head."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not is_head(name, model.active_peft_config):
            yield name, parameter


def slots_of(model: PeftModel) -> list[Slot]:
    """One slot for each adapter parameter, in the model's order."""
    layers = {name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    slots = []
    for name, parameter in adapter_parameters(model):
        path, _, leaf = name.rpartition(".")
        parents = [path[:end] for end in range(len(path), 0, -1) if end == len(path) or path[end] == "."]
        module = next((parent for parent in parents if parent in layers), path)
        slots.append(
            Slot(
                name=name,
                module=module.removeprefix("base_model.model."),
                owner=model.get_submodule(path),
                leaf=leaf,
                shape=parameter.shape,
                dtype=parameter.dtype,
            )
        )
    return slots
