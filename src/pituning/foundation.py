"""What an adapter is attached to: a frozen module that can be copied without copying its weights."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, Protocol, final, runtime_checkable

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from pituning.errors import BackboneError

# Values read from each tensor for the fingerprint: enough to tell two checkpoints apart, quick on large ones.
FINGERPRINT_SAMPLES = 4096


@runtime_checkable
class Foundation(Protocol):
    """A frozen model; `pituning.Backbone` is one, and `Frozen` makes one of any module."""

    model: nn.Module

    @property
    def name(self) -> str:
        """For people."""

    @property
    def fingerprint(self) -> str:
        """For comparison."""

    def fresh_module(self, labels: Sequence[str]) -> nn.Module:
        """A module of its own that shares the frozen weights, with a new head for `labels` if it has one."""


@final
class Frozen:
    """Any module as a foundation, for those who bring their own model and loop.

    Raises:
        BackboneError: if PEFT has put an adapter on it.
    """

    def __init__(self, model: nn.Module, *, name: str = "model") -> None:
        require_bare(model)
        self.model, self.name = model.requires_grad_(False).eval(), name

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint_of`."""
        return fingerprint_of(self.model)

    def fresh_module(self, labels: Sequence[str]) -> nn.Module:
        """A copy that shares the weights, head included."""
        return shared_copy(self.model)


def require_foundation(value: object) -> None:
    """Raise BackboneError for a bare module or a name (`isinstance` would compute the fingerprint)."""
    if not hasattr(value, "fresh_module"):
        fix = "`load_backbone(name)` makes one, and `pituning.foundation.Frozen(model)` of any module."
        raise BackboneError("an adapter's backbone must be a Backbone", type(value).__name__, fix)


def require_bare(model: nn.Module) -> None:
    """Raise BackboneError where PEFT has put an adapter on a model, which is then left as it is."""
    if any(isinstance(module, (PeftModel, BaseTunerLayer)) for module in model.modules()):
        raise BackboneError(
            "a backbone must be the bare model",
            f"{type(model).__name__} with an adapter in it",
            "Give `get_base_model()` of a prompt's PeftModel, `unload()` of any other.",
        )


def require_one_device(model: nn.Module) -> None:
    """Raise BackboneError where a model is spread over devices: a mixture computes all tensors on one."""
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(devices) > 1:
        fix = "Load it without device_map, or with device_map={'': DEVICE}."
        raise BackboneError("a backbone must be on one device", " and ".join(devices), fix)


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of the module tree whose weights are the very same tensors; other buffers are copied.

    An adapter injected into the copy leaves `model` alone, and many experts cost the memory of one backbone.
    """
    return copy.deepcopy(model, memo={id(one): one for one in weights_of(model)})


def weights_of(model: nn.Module) -> list[Any]:
    """The parameters, and what quantisation holds weights in beside them.

    GPTQ and AWQ: buffers of integers. bitsandbytes: objects, into which the first forward of 8 bits moves all
    that was in the parameters; who has no part in them takes the integers for weights.
    """
    found: list[Any] = [*model.parameters()]
    for module in model.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):  # which counts its batches
            found += [buffer for buffer in module.buffers(recurse=False) if not buffer.is_floating_point()]
        if type(module).__module__.startswith("bitsandbytes"):
            found += [held for name, held in vars(module).items() if name in ("state", "quant_state")]
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """As configurations and cards spell it: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def is_coarse(parameter: nn.Parameter) -> bool:
    """Whether it is held in 16 bits or fewer, and no integer of quantisation."""
    return parameter.is_floating_point() and parameter.dtype.itemsize < 4


def recomputes_activations(model: Any) -> bool:
    """Whether gradient checkpointing is on (transformers 5 renames the property)."""
    renamed = hasattr(type(model), "is_activation_checkpointing")
    name = "is_activation_checkpointing" if renamed else "is_gradient_checkpointing"
    return bool(getattr(model, name, False))


def checkpoint_activations(model: Any, **options: Any) -> None:
    """Recompute activations in the backward pass, without reentry (transformers 5 renames the method).

    Raises:
        BackboneError: if the model cannot.
    """
    renamed = hasattr(model, "activation_checkpointing_enable")
    try:
        enable = model.activation_checkpointing_enable if renamed else model.gradient_checkpointing_enable
        enable({"use_reentrant": False}, **options)
    except (AttributeError, ValueError) as error:
        must = "gradient checkpointing needs a model that can recompute its activations"
        given = f"{type(model).__name__} ({error})"
        raise BackboneError(must, given, "Leave gradient_checkpointing out.") from error


def fingerprint_of(model: nn.Module, *, without: Collection[str] = ()) -> str:
    """Hash of a model's weights: names, shapes and evenly spaced values, rounded to bfloat16.

    The same checkpoint loaded in float32 or bfloat16 has the same fingerprint.

    Args:
        model: the frozen model.
        without: names of children to leave out, such as a head that belongs to the task.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.split(".")[0] in without:
            continue
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // FINGERPRINT_SAMPLES)
        sample = flat[::step].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
