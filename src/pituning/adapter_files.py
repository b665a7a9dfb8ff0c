"""Reading the files of an adapter that PEFT, or anyone, wrote, trusting none of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import peft
import torch
from peft import PeftConfig, PeftType
from torch import Tensor

from pituning.errors import ExpertError
from pituning.safe_files import parse_json, parse_tensors, permitted, read_file
from pituning.spelling import did_you_mean_file

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "expert.json"

# Options with which PEFT would import a module, or read other files, that the configuration names.
REACHING = (
    "adapters",
    "megatron_config",
    "prompt_tuning_init_state_dict_path",
    "shadow_model",
    "tokenizer_kwargs",
)

# Options that PEFT allocates memory by; each is a dimension of a tensor, or smaller than one, or harmless.
SIZES = ("init_r", "n_frequency", "num_virtual_tokens", "r", "target_r")
HARMLESS = 64


@permitted(ExpertError)
def read_adapter(folder: Path) -> dict[str, bytes]:
    """File name -> content: weights, configuration and, where there is one, card.

    Raises:
        ExpertError: if one is missing, no regular file, or its size is not what its header declares.
    """
    if not folder.is_dir():
        fix = f"{did_you_mean_file(folder)}Check the path."
        raise ExpertError("an expert is an existing folder", f"{folder}, which is none", fix)
    if not (folder / WEIGHTS).is_file():
        pickles = [path for kind in ("bin", "pt", "pkl") for path in folder.glob(f"*.{kind}")]
        found = f"only {pickles[0].name}, a pickle" if pickles else f"no such file in {folder}"
        fix = "Name a PEFT adapter's folder."
        if pickles or (folder / CONFIG).exists():
            fix = "Save the adapter with PEFT's `save_pretrained(..., safe_serialization=True)`."
        must = f"an adapter's weights lie in {WEIGHTS}; pickles can run code and are never read"
        raise ExpertError(must, found, fix)
    if not (folder / CONFIG).exists():
        raise ExpertError(
            f"an expert folder holds {CONFIG}", f"{folder} does not", "Name a PEFT adapter's folder."
        )
    names = [WEIGHTS, CONFIG, *([CARD] if (folder / CARD).exists() else [])]
    return {name: _read(folder / name) for name in names}


def _read(path: Path) -> bytes:
    try:
        return read_file(path, follow=True)
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        kind = "safetensors" if path.suffix == ".safetensors" else "JSON"
        raise ExpertError(
            f"{path.name} must be a whole {kind} file",
            f"{path} ({error})",
            "It is truncated or of another format; copy or save it again.",
        ) from error


def load_tensors(content: bytes, where: str) -> dict[str, Tensor]:
    """The tensors of `WEIGHTS`, all finite.

    Raises:
        ExpertError: otherwise.
    """
    try:
        tensors = parse_tensors(content)
    except ValueError as error:
        raise ExpertError(
            f"{WEIGHTS} must be a whole safetensors file",
            f"{where} ({error})",
            "It is truncated or of another format; copy or save it again.",
        ) from error
    check_values(tensors, where)
    return tensors


def check_values(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise ExpertError where there is no tensor, or one that is not of finite floating-point numbers."""
    if not tensors:
        raise ExpertError("an expert has tensors", f"none in {where}", "Save the adapter again.")
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            raise ExpertError(
                "an expert's values are floating-point numbers of 16 bits or more",
                f"{name} in {where} is {tensor.dtype}",
                "Save the adapter in float32, float16 or bfloat16.",
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ExpertError(
                "an expert's values are finite",
                f"{name} in {where} is not",
                "Train it again at a lower rate.",
            )


def load_peft_config(content: bytes, tensors: Mapping[str, Tensor], where: str) -> PeftConfig:
    """The adapter's configuration.

    Raises:
        ExpertError: if it is of a method or has an option that PEFT does not know, makes PEFT reach for other
            files, or declares sizes that its tensors do not have.
    """
    try:
        raw = parse_json(content)
        kind = peft.PEFT_TYPE_TO_CONFIG_MAPPING[raw["peft_type"]]
        known = set(kind.__dataclass_fields__)
        unknown = sorted(key for key, value in raw.items() if key not in known and value)
        if unknown:
            raise KeyError(f"unknown options {', '.join(unknown)}")
        config: PeftConfig = kind(**{key: value for key, value in raw.items() if key in known})
    except Exception as error:  # PEFT checks no types: what it raises is a fault of the file
        raise ExpertError(
            f"{CONFIG} must be a configuration of the installed PEFT",
            f"{where} ({type(error).__name__}: {error})",
            f"Install the version of PEFT that wrote it, or save the adapter again with {peft.__version__}.",
        ) from error
    reaching = [name for name in REACHING if getattr(config, name, None)]
    if reaching:
        raise ExpertError(
            f"{CONFIG} must not make PEFT import modules or read other files",
            f"{where} has {', '.join(reaching)}",
            "Save the adapter without these options, which matter in training alone.",
        )
    _check_sizes(config, tensors, where)
    return config


def _check_sizes(config: PeftConfig, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise ExpertError before PEFT allocates what the configuration declares and the tensors do not have."""
    largest = max([HARMLESS, *(size for tensor in tensors.values() for size in tensor.shape)])
    patterns = getattr(config, "rank_pattern", None)
    declared = {name: getattr(config, name, None) for name in SIZES}
    declared |= {f"rank_pattern {n}": r for n, r in patterns.items()} if isinstance(patterns, dict) else {}
    wrong = [f"{name} {size}" for name, size in declared.items() if isinstance(size, int) and size > largest]
    if wrong:
        raise ExpertError(
            f"the sizes in {CONFIG} must be those of the tensors",
            f"{where} has {', '.join(wrong)}, and no tensor is longer than {largest}",
            "Save the adapter again.",
        )
    if config.peft_type == PeftType.LORA and not config.target_parameters:  # whose ranks are stacked
        ranks = [size for name, size in declared.items() if name == "r" or name.startswith("rank_pattern")]
        found = [size for name, t in tensors.items() if ".lora_A." in name for size in t.shape[:1]]
        if any(size not in ranks for size in found):
            raise ExpertError(
                f"the ranks in {CONFIG} must be those of the tensors",
                f"{where} has r {config.r}, tensors {', '.join(map(str, sorted({*found})))}",
                "Save the adapter again.",
            )
