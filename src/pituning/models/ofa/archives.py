"""The files that hold tensors, as trees of `Weight`s that are read one at a time.

Formats: torch's zip archive, torch's older stream of pickles, and safetensors.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pituning.errors import BackboneError
from pituning.models.ofa.inert_pickle import Inert, StoredTensor, read_inert
from pituning.models.ofa.safetensors_stream import CODES

MAGIC = 0x1950A86A20F9469CFC6C  # of torch's older format
CHUNK = 1 << 22
SAFETENSORS_DTYPES = {code: dtype for dtype, code in CODES.items()}


class Place(NamedTuple):
    """Bytes of a file, and their CRC-32 where the file says it."""

    start: int
    size: int
    crc: int | None = None


@final
@dataclass(frozen=True)
class Weight:
    """A tensor that stays on disk; equal ones are the same part of the same file.

    Attributes:
        file: that holds it.
        place: its bytes, or those of the storage that it is a view of.
        dtype: of its elements.
        shape, stride: in elements.
        offset: of the first element from the place's start.
    """

    file: Path
    place: Place
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    def read(self) -> Tensor:
        """Its values; nothing is kept here.

        Raises:
            BackboneError: the bytes are not those that were written.
        """
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype)
        count = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        buffer = bytearray(count * self.dtype.itemsize)
        view, done, crc = memoryview(buffer), 0, 0
        with self.file.open("rb") as file:
            file.seek(self.place.start + self.offset * self.dtype.itemsize)
            while done < len(buffer):
                read = file.readinto(view[done : done + CHUNK])
                if not read:
                    raise _damaged(self.file, "it ends too early")
                crc = zlib.crc32(view[done : done + read], crc)
                done += read
        if self.place.crc not in (None, crc) and len(buffer) == self.place.size:
            raise _damaged(self.file, "a tensor's bytes do not have their checksum")
        return torch.frombuffer(buffer, dtype=self.dtype).as_strided(self.shape, self.stride)


def read_torch(file: Path) -> dict[Any, Any]:
    """What torch.save wrote, its tensors as `Weight`s down to the third level; no code of it is run.

    Raises:
        BackboneError: the file is damaged, of another format, or names what could run code.
    """
    with file.open("rb") as stream:
        start = stream.read(4)
    if start.startswith(b"PK"):
        tree, places = _read_zip(file)
    elif start.startswith(b"\x80"):
        tree, places = _read_stream(file)
    else:
        raise no_checkpoint(file, f"it starts with {start!r}")
    if not isinstance(tree, Mapping):
        raise no_checkpoint(file, f"it holds a {type(tree).__name__}")
    located: dict[Any, Any] = _located(tree, file, places)
    return located


def _read_zip(file: Path) -> tuple[Any, dict[str, Place]]:
    try:
        with zipfile.ZipFile(file) as archive:
            records = {info.filename: info for info in archive.infolist()}
            top = next(
                (name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")), None
            )
            if top is None:
                raise no_checkpoint(file, "a zip archive without data.pkl")
            prefix = top.removesuffix("data.pkl")
            order = f"{prefix}byteorder"
            if order in records and archive.read(order) != b"little":
                raise no_checkpoint(file, "its numbers are big-endian")
            with archive.open(top) as stream:
                tree = read_inert(stream, str(file))  # type: ignore[arg-type]  # typeshed: IO[bytes]
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _damaged(file, str(error)) from error
    places = {}
    with file.open("rb") as stream:
        for name, info in records.items():
            if name.startswith(f"{prefix}data/") and info.compress_type == zipfile.ZIP_STORED:
                stream.seek(info.header_offset + 26)
                named, extra = struct.unpack("<HH", stream.read(4))
                start = info.header_offset + 30 + named + extra
                places[name.removeprefix(f"{prefix}data/")] = Place(start, info.file_size, info.CRC)
    return tree, places


def _read_stream(file: Path) -> tuple[Any, dict[str, Place]]:
    """The format before torch 1.6: four pickles, the storages' keys, the storages."""
    with file.open("rb") as stream:
        if read_inert(stream, str(file)) != MAGIC:
            raise no_checkpoint(file, "a pickle that torch did not write")
        _, system, tree, keys = (read_inert(stream, str(file)) for _ in range(4))
        if not isinstance(system, Mapping) or not system.get("little_endian"):
            raise no_checkpoint(file, "its numbers are big-endian")
        dtypes: dict[str, torch.dtype] = {}
        _collect_dtypes(tree, dtypes)
        places = {}
        end = file.stat().st_size
        for key in map(str, keys):
            (count,) = struct.unpack("<q", stream.read(8).ljust(8, b"\xff"))
            size = count * dtypes[key].itemsize if key in dtypes else -1
            places[key] = Place(stream.tell(), size)
            if size < 0 or stream.tell() + size > end:
                raise _damaged(file, "it ends too early")
            stream.seek(size, 1)
    return tree, places


def _collect_dtypes(value: Any, found: dict[str, torch.dtype]) -> None:
    """Storage key -> dtype, of all tensors in the tree."""
    waiting = [value]
    seen: set[int] = set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, StoredTensor):
            found[item.storage] = item.dtype
        elif id(item) not in seen and isinstance(item, (Mapping, list, tuple, Inert)):
            seen.add(id(item))
            if isinstance(item, Mapping):
                waiting.extend(item.values())
            elif isinstance(item, Inert):
                waiting.extend((item.arguments, item.state, item.items))
            else:
                waiting.extend(item)


def _located(value: Any, file: Path, places: Mapping[str, Place], depth: int = 3) -> Any:
    """The tree with each `StoredTensor` as the `Weight` that it is in the file, down to `extra_state.ema`."""
    if isinstance(value, Mapping) and depth:
        return {key: _located(item, file, places, depth - 1) for key, item in value.items()}
    if not isinstance(value, StoredTensor):
        return value
    place = places.get(value.storage)
    if place is None or place.size < value.elements * value.dtype.itemsize:
        raise _damaged(file, f"storage {value.storage} is missing, too short or compressed")
    return Weight(file, place, value.dtype, value.shape, value.stride, value.offset)


def read_safetensors(file: Path) -> dict[str, Weight]:
    """Tensors by name.

    Raises:
        BackboneError: the file is damaged or of another format.
    """
    try:
        with safe_open(file, framework="pt"):  # checks the header and the length
            pass
    except (SafetensorError, ValueError, OSError) as error:
        raise _damaged(file, str(error)) from error
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        shape = tuple(entry["shape"])
        stride = torch.empty(shape, device="meta").stride()
        dtype = SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise no_checkpoint(file, f"{name} is of type {entry['dtype']}")
        found[name] = Weight(file, Place(8 + length + first, last - first), dtype, shape, stride)
    return found


def _damaged(file: Path, why: str) -> BackboneError:
    return BackboneError(
        "a checkpoint must be whole",
        f"{file} ({why})",
        "It is truncated or damaged; copy or download it again.",
    )


def no_checkpoint(file: Path, why: str) -> BackboneError:
    """The error for a file that is something else."""
    return BackboneError(
        "a checkpoint is what torch.save or safetensors wrote: a dictionary of tensors",
        f"{file} ({why})",
        "Name a fairseq .pt file, or the folder of a Hugging Face model.",
    )
