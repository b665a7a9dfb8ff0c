"""Reading the two files that PEFT writes for an adapter, trusting neither."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import peft
import torch
from peft import PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pituning.errors import ExpertError

WEIGHTS = "adapter_model.safetensors"


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, all finite.

    Raises:
        ExpertError: otherwise.
    """
    if not path.is_file():
        pickles = [*path.parent.glob("*.bin"), *path.parent.glob("*.pt"), *path.parent.glob("*.pkl")]
        found = f"only {pickles[0].name}, a pickle" if pickles else f"no such file in {path.parent}"
        raise ExpertError(
            f"an adapter's weights lie in {path.name}; pickles can run code and are never read",
            found,
            "Save the adapter with PEFT's `save_pretrained(..., safe_serialization=True)`.",
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ExpertError(
            f"{path.name} must be a whole safetensors file",
            f"{path} ({error})",
            "It is truncated or of another format; copy or save it again.",
        ) from error
    check_finite(tensors, str(path))
    return tensors


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise ExpertError where a value is not a number or infinite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ExpertError(
                "an expert's values are finite",
                f"{name} in {where} is not",
                "Train it again at a lower rate.",
            )


def load_peft_config(folder: Path) -> PeftConfig:
    """The adapter's configuration.

    Raises:
        ExpertError: if it is missing, of a method or has an option that PEFT does not know.
    """
    file = folder / "adapter_config.json"
    try:
        raw = json.loads(file.read_text())
        kind = peft.PEFT_TYPE_TO_CONFIG_MAPPING[raw["peft_type"]]
        known = set(kind.__dataclass_fields__)
        unknown = sorted(key for key, value in raw.items() if key not in known and value)
        if unknown:
            raise KeyError(f"unknown options {', '.join(unknown)}")
        return kind(**{key: value for key, value in raw.items() if key in known})
    except FileNotFoundError as error:
        raise ExpertError(
            "an expert folder holds adapter_config.json",
            f"{folder} does not",
            "Name a PEFT adapter's folder.",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ExpertError(
            "adapter_config.json must be a configuration of the installed PEFT",
            f"{file} ({type(error).__name__}: {error})",
            f"Install the version of PEFT that wrote it, or save the adapter again with {peft.__version__}.",
        ) from error
