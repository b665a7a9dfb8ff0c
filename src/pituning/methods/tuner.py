"""What our own methods share as PEFT tuners."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from pituning.errors import ExpertError
from pituning.methods.sites import sites_of


class UnmergeableLayer(BaseTunerLayer):  # type: ignore[misc]
    """A layer whose adapter is not linear in its input."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> NoReturn:
        """Refuse: what is not linear cannot be written into the weight of a linear layer.

        Raises:
            ExpertError: always.
        """
        raise ExpertError(
            must="only an adapter that is linear in its input can be merged into the base weights",
            given=type(self).__name__,
            fix="Keep the adapter beside the model, or call unload() for the base model without it.",
        )

    def unmerge(self) -> None:
        """Do nothing: nothing can have been merged."""


def width_of(base: nn.Module, method: str) -> int:
    """Numbers in a row of what a Linear or LayerNorm puts out.

    Raises:
        ExpertError: it is neither.
    """
    if isinstance(base, nn.Linear):
        return base.out_features
    if isinstance(base, nn.LayerNorm):
        return int(base.normalized_shape[-1])
    raise ExpertError(
        must=f"{method} must follow a Linear or a LayerNorm",
        given=type(base).__name__,
        fix="Narrow target_modules down to such layers.",
    )


class OwnModel(BaseTuner):  # type: ignore[misc]
    """PEFT's view of a model with one of our methods.

    Attributes:
        site: which of an architecture's `Sites` are adapted where the configuration names none.
    """

    site: ClassVar[str]
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  (the base class declares it)

    @classmethod
    def _prepare_adapter_config(cls, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        if peft_config.target_modules is None:
            peft_config.target_modules = getattr(sites_of(model_config.get("model_type")), cls.site)
        return peft_config

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config)
            return
        layer = self.tuner_layer_cls(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)
