"""A frozen model, several experts and the weights that mix them, as one trainable module."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from peft import PeftModel
from torch import Tensor, nn

from pituning.errors import ConfigError, MixtureError
from pituning.expert import Expert
from pituning.foundation import (
    Foundation,
    Frozen,
    checkpoint_activations,
    recomputes_activations,
    require_foundation,
    require_one_device,
    weights_of,
)
from pituning.interpolate.collapse import collapse
from pituning.interpolate.compatible import Space, check_mixable
from pituning.interpolate.delta import DeltaSpace
from pituning.interpolate.parameters import ParameterSpace
from pituning.interpolate.weights import Sharing, logits_of, simplex


@final
class Mixture(nn.Module):
    """base + Σ_i softmax(α)_i expert_i, trainable in α, in the experts, or in both.

    The mixed tensors are computed once a forward and stand where the adapter's own were, so PEFT's code runs
    unchanged and a step costs about that of one expert. The frozen weights are the backbone's own: what
    `to()` does to the mixture, it does to the backbone. Use it as a module (`mixture(**batch)`), or call
    `mixed()` for the adapted model with fresh tensors in place. Gradient checkpointing must be non-reentrant,
    which is the default of transformers 5. A transformers `Trainer` needs `remove_unused_columns=False` and
    `label_names=["labels"]`, which it cannot read off `forward`.

    Args:
        backbone: a `Backbone`, or any frozen module that PEFT can adapt.
        experts: in any order; the result does not depend on it.
        space: "parameters" averages the experts' tensors, which must come from one initialisation; "delta"
            (LoRA only) averages the updates B·A, whatever their ranks and initialisations.
        sharing: one α vector a module, a block (an attention's projections together), a layer, or for
            the whole expert.
        train_experts: also train the experts' tensors; a head is always trained.
        target: name of the expert whose task this is; its head is used. Needed where experts have heads.
        initial: weight of each expert at the start, on the simplex; uniform where not given.

    Raises:
        MixtureError: if the experts cannot be mixed in this space; it says why.
        ExpertError: if one does not fit the backbone.
        BackboneError: if that is spread over several devices.

    Example:
        >>> mixture = Mixture(model, [Expert.load("a"), Expert.load("b")], space="delta")  # doctest: +SKIP
        >>> mixture(**batch).loss.backward()  # doctest: +SKIP
        >>> mixture.collapse().save("one-adapter")  # doctest: +SKIP
    """

    def __init__(
        self,
        backbone: Foundation | nn.Module,
        experts: Sequence[Expert],
        *,
        space: Space = "parameters",
        sharing: Sharing = "module",
        train_experts: bool = True,
        target: str | None = None,
        initial: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        ConfigError.check_kinds(*((Expert, expert) for expert in experts))
        self.backbone = Frozen(backbone) if isinstance(backbone, nn.Module) else backbone
        require_foundation(self.backbone)
        require_one_device(self.backbone.model)
        self.experts = sorted(experts, key=lambda expert: expert.name)
        self.space: Space = space
        self.target = check_mixable(self.experts, space, target, self.backbone)
        self.has_target = target is not None or len(self.experts) == 1
        kind = ParameterSpace if space == "parameters" else DeltaSpace
        self.tensors = kind(self.backbone, self.experts, self.target, sharing)
        self.model: PeftModel = self.tensors.model
        base = self.model.get_base_model()
        if recomputes_activations(base):  # perhaps in another way than this one can
            checkpoint_activations(base)
        dtype = next(self.tensors.parameters()).dtype
        self.alpha = nn.Parameter(torch.zeros(len(self.experts), len(self.tensors.groups), dtype=dtype))
        self.start_at(initial)
        if not train_experts:
            self.tensors.requires_grad_(False)
            for fixed in self.tensors.fixed:
                self.model.get_parameter(fixed).requires_grad_(False)
        for slot in self.tensors.slots:
            slot.empty()
        self.to(next(self.model.parameters()).device)

    def start_at(self, initial: Mapping[str, float] | None) -> Mixture:
        """Set the weights of every group: one for each expert, on the simplex; uniform where not given.

        Raises:
            MixtureError: if they are no such weights.
        """
        start = logits_of(self._start(initial), len(self.tensors.groups))
        with torch.no_grad():
            self.alpha.copy_(start)
        return self

    def mixed(self) -> PeftModel:
        """The adapted model with the tensors of the present α and experts in place, in the autograd graph."""
        for slot, value in zip(self.tensors.slots, self.tensors(self.alpha), strict=True):
            slot.fill(value)
        return self.model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The adapted model's own forward."""
        return self.mixed()(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Mixture:
        """What `to()` calls: the computed tensors follow, and the backbone, which shares its weights."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.backbone.model._apply(fn)
        self.tensors.slots = [slot.converted(fn) for slot in self.tensors.slots]
        self.mixed()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Mixture:
        """A mixture of its own that shares the frozen backbone."""
        memo |= {id(shared): shared for shared in (self.backbone, *weights_of(self.backbone.model))}
        computed = [slot.value for slot in self.tensors.slots]
        copied = memo[id(self)] = Mixture.__new__(Mixture)
        try:
            for slot in self.tensors.slots:  # torch copies no tensor that is inside a graph
                slot.fill(slot.value.detach())
            copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        finally:
            for slot, value in zip(self.tensors.slots, computed, strict=True):
                slot.fill(value)
        copied.mixed()
        return copied

    def weights(self) -> dict[str, dict[str, float]]:
        """Group -> expert -> weight. Each group's weights add up to one."""
        values = simplex(self.alpha.detach())
        names = [expert.name for expert in self.experts]
        return {
            group: dict(zip(names, values[:, column].tolist(), strict=True))
            for column, group in enumerate(self.tensors.groups)
        }

    def mean_weights(self) -> dict[str, float]:
        """Expert -> its weight, averaged over the groups."""
        means = simplex(self.alpha.detach()).mean(dim=1).tolist()
        return {expert.name: mean for expert, mean in zip(self.experts, means, strict=True)}

    def parameter_groups(self, *, experts: float, weights: float) -> list[dict[str, Any]]:
        """For an optimiser: α at the rate `weights`, everything else that trains at the rate `experts`."""
        others = [p for p in self.parameters() if p.requires_grad and p is not self.alpha]
        groups = [{"params": others, "lr": experts}] if others else []
        alpha = {"params": [self.alpha], "lr": weights, "weight_decay": 0.0}
        return [*groups, alpha] if self.alpha.requires_grad else groups

    def collapse(self, *, name: str | None = None, rank: int | None = None) -> Expert:
        """One plain expert with the mixture's outputs.

        Args:
            name: the new expert's name; the target's where not given, and "mixture" where there is none.
            rank: delta space only: reduce the rank Σ_i r_i to this one by SVD. The relative error of the
                updates, in the Frobenius norm, is put on the card as `recipe["relative_error"]`.

        Raises:
            MixtureError: for a rank in parameter space, whose rank is the experts' own.
        """
        self.mixed()
        return collapse(self, name=name or (self.target.name if self.has_target else "mixture"), rank=rank)

    @property
    def config(self) -> Any:
        """The frozen model's configuration, where trainers look for it."""
        return self.model.config

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether the frozen model takes a trainer's `num_items_in_batch`."""
        forward = inspect.signature(self.model.get_base_model().forward).parameters.values()
        return any(parameter.kind is parameter.VAR_KEYWORD for parameter in forward)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Trade time for memory; reentrant checkpointing is refused, as it would run α's graph twice."""
        if (activation_checkpointing_kwargs or {}).get("use_reentrant"):
            raise MixtureError(
                "a mixture's gradient checkpointing is non-reentrant",
                "use_reentrant=True",
                "Pass gradient_checkpointing_kwargs={'use_reentrant': False}.",
            )
        checkpoint_activations(self.model.get_base_model(), **options)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """The name of `activation_checkpointing_enable` before transformers 6."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs)

    def _start(self, initial: Mapping[str, float] | None) -> list[float]:
        names = [expert.name for expert in self.experts]
        if initial is None:
            return [1.0 / len(names)] * len(names)
        if set(initial) != set(names) or min(initial.values()) < 0 or abs(sum(initial.values()) - 1) > 1e-6:
            raise MixtureError(
                f"initial weights lie on the simplex, one for each of {', '.join(names)}",
                str(dict(initial)),
                "Give every expert a weight of at least 0, adding up to 1.",
            )
        return [initial[name] for name in names]
