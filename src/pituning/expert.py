"""An expert: a PEFT adapter trained on one task, and its card."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft import PeftConfig, PeftModel, PromptTuningInit, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor, nn

from pituning.adapter_files import (
    CARD,
    CONFIG,
    WEIGHTS,
    check_values,
    load_peft_config,
    load_tensors,
    read_adapter,
)
from pituning.card import UNKNOWN, ExpertCard
from pituning.errors import ConfigError, ExpertError, PituningError
from pituning.foundation import Foundation, require_foundation
from pituning.methods.targets import inside
from pituning.places import appearing, writing
from pituning.seed import isolated_seed
from pituning.task import Task


@dataclass(frozen=True, eq=False)
class Expert:
    """An adapter's configuration and tensors, named as PEFT saves them.

    Attributes:
        card: what is known of it: its name, task, backbone, data, scores and training.
        config: PEFT's.
        tensors: name -> tensor on the CPU.

    Example:
        >>> expert = Expert.load("pool/films")  # doctest: +SKIP
        >>> expert.name, expert.method  # doctest: +SKIP
        ('films', 'LORA')
    """

    card: ExpertCard
    config: PeftConfig
    tensors: Mapping[str, Tensor]

    def __repr__(self) -> str:
        """Short: a notebook shows it."""
        numbers = sum(tensor.numel() for tensor in self.tensors.values())
        return f"Expert({self.name!r}, {self.method} of {numbers:,} numbers, of the task {self.card.task!r})"

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def method(self) -> str:
        """PEFT's type, such as "LORA"."""
        return method_of(self.config)

    @property
    def untrained(self) -> bool:
        """Whether no epoch of its training validated better than its start."""
        return self.card.recipe.get("best_epoch") == 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the configuration and the tensors."""
        return tensors_digest(self.tensors, self.config)

    def renamed(self, name: str) -> Expert:
        """The same expert under another name."""
        return Expert(replace(self.card, name=name), self.config, self.tensors)

    def save(self, folder: str | Path) -> Path:
        """Write what PEFT writes (`adapter_config.json`, `adapter_model.safetensors`) and `expert.json`.

        The folder appears whole or not at all.

        Raises:
            ExpertError: if the folder exists, or cannot be written.
        """
        target = Path(folder)
        if target.exists():
            raise ExpertError(
                "an expert is never overwritten", f"{target} exists", "Remove it or choose another folder."
            )
        with appearing(target) as folder, writing(target):
            self.write(folder)
        return target

    def write(self, folder: Path) -> None:
        """Write the expert's files into a folder that exists.

        Raises:
            ExpertError: if it could not be read again, such as for a value that is not finite.
        """
        check_values(self.tensors, f"expert {self.name!r}")
        card = self.card.to_bytes()
        config = copy.deepcopy(self.config)
        config.inference_mode = True
        for name, value in vars(config).items():  # PEFT's sets have another order in every process
            if isinstance(value, (set, frozenset)):
                setattr(config, name, sorted(value, key=str))
        config.save_pretrained(str(folder))
        load_peft_config((folder / CONFIG).read_bytes(), self.tensors, f"expert {self.name!r}")
        # Clones: safetensors refuses tensors that share memory.
        tensors = {n: t.detach().cpu().contiguous().clone() for n, t in self.tensors.items()}
        (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
        (folder / CARD).write_bytes(card)

    @classmethod
    def load(cls, folder: str | Path) -> Expert:
        """Read an expert folder, or any PEFT adapter folder (its card then says what is unknown).

        A name on the Hub is none: download it first (`huggingface_hub.snapshot_download`).

        Raises:
            ExpertError: if a file is missing, truncated, not safetensors, or holds a value not finite.
        """
        ConfigError.check_kinds((str | PathLike, folder))
        return cls.from_files(read_adapter(Path(folder)), Path(folder))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], folder: Path) -> Expert:
        """The expert of a folder whose files were read.

        Raises:
            ExpertError: as `load`.
        """
        missing = sorted({WEIGHTS, CONFIG}.difference(files))
        if missing:
            fix = "Name a PEFT adapter's folder."
            raise ExpertError("an expert has weights and a configuration", f"{folder}: no {missing[0]}", fix)
        tensors = load_tensors(files[WEIGHTS], str(folder / WEIGHTS))
        config = load_peft_config(files[CONFIG], tensors, str(folder / CONFIG))
        if CARD in files:
            return cls(ExpertCard.parse(files[CARD], str(folder / CARD)), config, tensors)
        base = str(config.base_model_name_or_path)
        return cls(ExpertCard(name=folder.name, task=folder.name, backbone=f"?{base}"), config, tensors)


def attach(
    backbone: Foundation,
    config: PeftConfig,
    *,
    labels: Sequence[str] = (),
    seed: int,
    overwritten: bool = False,
) -> PeftModel:
    """A new adapter of this configuration on a copy that shares the backbone's weights, seeded.

    One that is to be `overwritten` is not begun at the words that a prompt's configuration may name: PEFT
    would look for their tokenizer, wherever that is.

    Head and adapter each start from the seed, so the number of classes does not change the adapter.
    Tensors of the backbone itself that the method trains (LoRA's `bias="all"`) or changes (PiSSA takes the
    adapter's start out of the frozen weight) become copies, so the backbone stays as it was.
    """
    config = copy.deepcopy(config)
    config.inference_mode = False
    with isolated_seed(seed):
        module = backbone.fresh_module(labels)
    frozen = {id(parameter): (parameter, parameter.data) for parameter in module.parameters()}
    begun = getattr(config, "prompt_tuning_init", None) if overwritten else None
    if begun:
        config.prompt_tuning_init = PromptTuningInit.RANDOM
    with isolated_seed(seed):
        model = get_peft_model(module, config)
    if begun:
        config.prompt_tuning_init = begun
    if config.modules_to_save:  # to which PEFT adds the heads it knows, also where they are there already
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
    own = {key: _unshared(parameter, data) for key, (parameter, data) in frozen.items()}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            replacement = own.get(id(parameter))
            if replacement is not None:
                setattr(module, name, replacement)
    return model


def _unshared(parameter: nn.Parameter, before: Tensor) -> nn.Parameter | None:
    """A copy of a parameter that the adapter trains or changed (the backbone's is put right); else None."""
    changed = parameter.data_ptr() != before.data_ptr()
    if not changed and not parameter.requires_grad:
        return None
    own = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
    parameter.requires_grad_(False)
    if changed:
        parameter.data = before
    return own


def attach_expert(backbone: Foundation, expert: Expert) -> PeftModel:
    """The expert's adapter, and its head if it has one, on a copy that shares the backbone's weights.

    Raises:
        ExpertError: if the adapter does not fit the backbone.
    """
    require_foundation(backbone)
    ConfigError.check_kinds((Expert, expert))
    return _loaded(backbone, expert, load_into, overwritten=True)


def attach_untrained(backbone: Foundation, expert: Expert, init_seed: int = 0) -> PeftModel:
    """The expert's adapter as it was before training, under its head as it is, if it has one.

    Args:
        backbone: shares its weights.
        expert: of one that was trained elsewhere, the start is not known: an adapter of its configuration.
        init_seed: of the initialisation, where the card does not tell it.

    Raises:
        ExpertError: if the adapter does not fit the backbone.
    """

    def load_head(model: PeftModel, expert: Expert) -> None:
        check_shapes(model, expert)
        heads = {name: tensor for name, tensor in expert.tensors.items() if is_head(name, expert.config)}
        load_into(model, replace(expert, tensors=saved_tensors(model) | heads))

    seed = expert.card.recipe.get("init_seed", init_seed)
    return _loaded(backbone, expert, load_head, seed=seed, overwritten=expert.card.initialisation == UNKNOWN)


def _loaded(
    backbone: Foundation,
    expert: Expert,
    load: Callable[[PeftModel, Expert], None],
    *,
    seed: int = 0,
    overwritten: bool,
) -> PeftModel:
    check_backbone(backbone, expert)
    labels = expert.card.labels
    try:
        model = attach(backbone, expert.config, labels=labels, seed=seed, overwritten=overwritten)
        load(model, expert)
    except PituningError:
        raise
    except Exception as error:  # PEFT checks no types: what it raises is a fault of the configuration
        raise ExpertError(
            f"expert {expert.name!r} must fit the backbone {backbone.name!r}",
            f"{type(error).__name__}: {error}".splitlines()[0],
            "Use the backbone that it was trained on.",
        ) from error
    return model.eval()


def adopt(expert: Expert, backbone: Foundation, task: Task | None = None) -> Expert:
    """An adapter that fits the backbone; see `introduced`.

    Raises:
        ExpertError: if its tensors are not those that its configuration has on this backbone.
    """
    adopted = introduced(expert, backbone, task)
    attach_expert(backbone, adopted)
    return adopted


def introduced(expert: Expert, backbone: Foundation, task: Task | None = None) -> Expert:
    """The card of an adapter that was trained elsewhere, or of no task, gets what backbone and task tell."""
    card = expert.card
    foreign = card.backbone.startswith("?")
    if foreign:
        card = replace(card, backbone=backbone.fingerprint, backbone_name=backbone.name)
    if task is not None and (foreign or card.task == UNKNOWN):
        card = replace(
            card,
            task=task.name,
            source=task.source,
            modality=task.modality,
            metric=task.metric,
            labels=list(task.candidates),
        )
    return replace(expert, card=card)


def check_backbone(backbone: Foundation, expert: Expert) -> None:
    """Raise ExpertError where the card names another backbone."""
    made_on = expert.card.backbone
    if not made_on.startswith("?") and made_on != backbone.fingerprint:
        raise ExpertError(
            f"expert {expert.name!r} must be used on the backbone it was trained on",
            f"{backbone.name} has fingerprint {backbone.fingerprint[:12]}, the expert names {made_on[:12]}",
            "Load that backbone, or leave this expert out.",
        )


def load_into(model: PeftModel, expert: Expert) -> None:
    """Write the expert's tensors into an adapter of the same configuration.

    Raises:
        ExpertError: as `check_shapes`.
    """
    check_shapes(model, expert)
    set_peft_model_state_dict(model, dict(expert.tensors))


def check_shapes(model: PeftModel, expert: Expert) -> None:
    """Raise ExpertError naming the expert's tensors that are missing, extra or of another shape."""
    expected = saved_tensors(model)
    wrong = sorted(set(expected) ^ set(expert.tensors)) + sorted(
        name
        for name in set(expected) & set(expert.tensors)
        if expected[name].shape != expert.tensors[name].shape
    )
    if wrong:
        fix = "Use the backbone (and the number of classes) that it was trained with."
        if all(name.endswith(".base_layer.weight") for name in wrong):
            fix = "PEFT adds those of the backbone's embeddings: save with `save_embedding_layers=False`."
        raise ExpertError(
            f"the tensors of expert {expert.name!r} must be those of its configuration on this backbone",
            f"missing, extra or of another shape: {', '.join(wrong[:5])}" + (" …" if len(wrong) > 5 else ""),
            fix,
        )


def saved_tensors(model: PeftModel) -> dict[str, Tensor]:
    """The adapter's tensors under the names that PEFT saves, detached and on the CPU."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def method_of(config: PeftConfig) -> str:
    """PEFT's type, such as "LORA"."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def is_head(name: str, config: PeftConfig) -> bool:
    """Whether a tensor belongs to a module that the task owns: PEFT's `modules_to_save`.

    PEFT adds "classifier" and "score" by itself for sequence classification.
    """
    heads = [*(getattr(config, "modules_to_save", None) or ())]
    if config.task_type == "SEQ_CLS":
        heads += ["classifier", "score"]
    return inside(name.rpartition(".")[0], heads)


def initialisation_of(model: PeftModel) -> str:
    """Hash of an adapter that is not trained yet, without the task's head.

    Rounded to bfloat16, as PEFT rounds the same start where the backbone is of bfloat16.
    """
    config = model.active_peft_config
    tensors = {name: tensor for name, tensor in saved_tensors(model).items() if not is_head(name, config)}
    return tensors_digest({name: _rounded(tensor) for name, tensor in tensors.items()}, config)


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.is_floating_point() else tensor


def tensors_digest(tensors: Mapping[str, Tensor], config: PeftConfig) -> str:
    """SHA-256 of the tensors and of the configuration's choices (not of paths or versions).

    What is as by default is no choice: an option that a later PEFT adds leaves the digests as they are.
    """
    ignored = {"base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version"}
    defaults = {entry.name: _default(entry) for entry in fields(config)}
    choices = {
        key: value
        for key, value in config.to_dict().items()
        if key not in ignored and not (key in defaults and value == defaults[key])
    }
    digest = hashlib.sha256(json.dumps(choices, sort_keys=True, default=_plain).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _default(entry: Field[Any]) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _plain(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, (set, frozenset)) else str(value)


def library_versions() -> dict[str, str]:
    """Versions of what makes an expert."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
