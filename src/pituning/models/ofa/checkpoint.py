"""A checkpoint on disk as a table of tensors that are read one at a time.

Contents: a fairseq checkpoint (`{"model": ..., "cfg": ..., "extra_state": ...}`), a plain state dict, or a
Hugging Face model folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pituning.errors import BackboneError
from pituning.models.ofa.archives import Weight, no_checkpoint, read_safetensors, read_torch
from pituning.models.ofa.inert_pickle import Inert

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint holds of a model.

    Attributes:
        path: the file or folder.
        weights: by name, as written there.
        ema: the moving average of them, where training kept one.
        ema_float32: the part of it that was kept in float32 beside float16 weights.
        options: the model's options as fairseq names them; none where the file does not say.
        config: what `config.json` beside it says.
    """

    path: Path
    weights: Mapping[str, Weight]
    ema: Mapping[str, Weight] = field(default_factory=dict)
    ema_float32: Mapping[str, Weight] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read all but the tensors' values; no code of the file is run.

    Raises:
        BackboneError: there is no such file, it is damaged, no checkpoint, or names what could run code.

    Example:
        >>> open_checkpoint("ofa_base.pt").weights["encoder.embed_tokens.weight"].shape  # doctest: +SKIP
        (59457, 768)
    """
    path = Path(path)
    if not path.exists():
        raise BackboneError("a checkpoint is a file or a folder", f"{path}, which is not there", "Check it.")
    files = [path] if path.is_file() else _files_of(path)
    tree: dict[Any, Any] = {}
    for file in files:
        tree |= read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
    config = read_config(files[0].with_name("config.json"))
    holder = tree if isinstance(tree.get("model"), Mapping) else {"model": tree}
    weights = _weights(holder["model"])
    if not weights:
        raise no_checkpoint(path, f"it has no tensors but {', '.join(map(str, list(tree)[:5])) or 'nothing'}")
    extra = holder.get("extra_state")
    extra = extra if isinstance(extra, Mapping) else {}
    return Checkpoint(
        path=path,
        weights=weights,
        ema=_weights(extra.get("ema")),
        ema_float32=_weights(extra.get("ema_fp32_params")),
        options=_options(holder),
        config=config,
    )


def _files_of(folder: Path) -> list[Path]:
    """The weights of a Hugging Face model folder."""
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        here = ", ".join(sorted(file.name for file in folder.iterdir())[:6]) or "nothing"
        raise BackboneError(
            f"a checkpoint folder holds one of {', '.join(WEIGHT_FILES)}",
            f"{folder} with {here}",
            "Name the .pt file itself, or the folder of a Hugging Face model.",
        )
    if found.suffix != ".json":
        return [found]
    names = set(read_config(found).get("weight_map", {}).values())
    parts = sorted(folder / Path(str(name)).name for name in names)
    if not parts or not all(part.is_file() for part in parts):
        missing = ", ".join(part.name for part in parts if not part.is_file()) or "it names none"
        raise BackboneError(f"the parts in {found.name} must be there", missing, "Download them.")
    return parts


def read_config(file: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is not there.

    Raises:
        BackboneError: it is no JSON.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise BackboneError(
            f"{file.name} must be JSON", f"{file} ({error})", "Restore or delete it."
        ) from error
    return content if isinstance(content, dict) else {}


def _weights(tree: Any) -> dict[str, Weight]:
    """The tensors of a state dict."""
    if not isinstance(tree, Mapping):
        return {}
    return {str(name): value for name, value in tree.items() if isinstance(value, Weight)}


def _options(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The options in `cfg.model` or `args`, as plain values."""
    cfg = _plain(tree.get("cfg"))
    found = cfg.get("model") if isinstance(cfg, dict) else None
    if not isinstance(found, dict) or len(found) < 2:  # only the architecture's name
        found = _plain(tree.get("args"))
    return {str(name): value for name, value in found.items()} if isinstance(found, dict) else {}


def _plain(value: Any, depth: int = 0) -> Any:
    """Settings as dictionaries and scalars: of a Namespace, a dataclass, omegaconf's nodes; else None."""
    if depth > 8:
        return None
    if isinstance(value, Inert):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        if not isinstance(state, Mapping):
            return value.arguments[0] if len(value.arguments) == 1 else None  # an enumeration's value
        for name in ("_val", "_content"):
            if name in state:
                return _plain(state[name], depth + 1)
        return _plain(state, depth)
    if isinstance(value, Mapping):
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    return value if isinstance(value, (str, int, float, bool)) else None
