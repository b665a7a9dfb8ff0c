"""Writing a safetensors file tensor by tensor, so that one tensor at a time is in memory."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from pituning.errors import BackboneError

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@final
@dataclass(frozen=True)
class Entry:
    """A tensor to be written.

    Attributes:
        name: in the file.
        dtype: that it is written in.
        shape: of what `read` gives.
        read: its values, in any dtype; called once.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def write_safetensors(path: Path, entries: Sequence[Entry]) -> None:
    """Write the file.

    Raises:
        BackboneError: a finite value is too large for its dtype.
    """
    ordered = sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.name))  # so all are aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in ordered:
        start, end = end, end + math.prod(entry.shape) * entry.dtype.itemsize
        header[entry.name] = {
            "dtype": CODES[entry.dtype],
            "shape": entry.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in ordered:
            values = _converted(entry).reshape(-1).view(torch.uint8)
            values.numpy().tofile(file)


def _converted(entry: Entry) -> Tensor:
    given = entry.read()
    if tuple(given.shape) != entry.shape:
        raise AssertionError(f"{entry.name} is {tuple(given.shape)}, announced as {entry.shape}")
    values = given.to(entry.dtype).contiguous()
    if entry.dtype == torch.float16 and given.dtype != torch.float16:
        lost = values.isinf() & given.isfinite()
        if bool(lost.any()):
            raise BackboneError(
                "values must fit float16, which ends at 65504",
                f"{entry.name} reaches {float(given.abs().max()):.3g}",
                "Convert to bfloat16 or float32 with --dtype.",
            )
    return values
