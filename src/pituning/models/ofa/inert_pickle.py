"""Reading a pickle as a description: nothing that it names is imported, and nothing of it is called.

A pickle is a program: it names globals and calls them. Here a global is looked up in a table of our own
functions, which build descriptions (`StoredTensor`) and plain containers; the classes of configuration
objects become empty classes of the same name; every other name is refused. So the objects that such a
program can reach are harmless ones, whatever it does with them.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch

from pituning.errors import BackboneError

DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "Untyped": torch.uint8,
}
"""By the names of torch's storages."""

CONFIGURATION = re.compile(
    r"argparse\.Namespace"
    r"|pathlib\.\w*(Path|PosixPath|WindowsPath)"
    r"|(omegaconf|fairseq|hydra|ofa_module|criterions|tasks|models)\.[\w.]+"
    r"|(data|utils)\.[\w.]+"  # of the official repository's folder
    r"|typing\.\w+|types\.SimpleNamespace|enum\.\w+|datetime\.\w+"
    r"|collections\.(deque|UserDict|UserList)"
    r"|(builtins|__builtin__)\.(object|dict|list|tuple|set|frozenset|str|bytes|int|float|bool|complex|slice)"
    r"|numpy\.(dtype|ndarray|(core|_core)\.multiarray\.(scalar|_reconstruct)|\w+64|\w+32)"
)
"""What a checkpoint may hold besides tensors, as `module.name`; it is never imported."""


@final
@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: a view of a storage of the file.

    Attributes:
        storage: the storage's key in the file.
        dtype: of its elements.
        elements: in the whole storage.
        offset: of the first element.
        shape, stride: in elements.
    """

    storage: str
    dtype: torch.dtype
    elements: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __setstate__(self, state: object) -> None:
        """A pickle cannot change it afterwards."""
        raise pickle.UnpicklingError("a tensor cannot be given a state")


class Inert:
    """An object of a class that is not loaded: it takes whatever the pickle gives it and does nothing."""

    arguments: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __new__(cls, *arguments: Any, **_: Any) -> Inert:
        """Keep the arguments."""
        made = super().__new__(cls)
        made.arguments, made.state, made.items = arguments, None, []
        return made

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep an entry of a mapping."""
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """Keep an entry of a list or a set."""
        self.items.append(value)

    add = append


class Dictionary(dict[Any, Any]):
    """An OrderedDict whose attributes (`_metadata` of a state dict) are not kept."""

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


@final
class _Function:
    """One of our functions as the pickle sees it: to be called, and nothing else."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        """A pickle cannot change it."""
        raise pickle.UnpicklingError("a function cannot be given a state")


def read_inert(file: io.BufferedIOBase, where: str) -> Any:
    """The next pickle of a file, its tensors as `StoredTensor`.

    Raises:
        BackboneError: it names a global that is not allowed, or is no whole pickle.
    """
    try:
        return _Unpickler(file, where).load()
    except BackboneError:
        raise
    except Exception as error:  # a broken pickle can fail in any way
        raise BackboneError(
            "a checkpoint's pickle must be whole and hold tensors and settings alone",
            f"{where} ({type(error).__name__}: {error})",
            "It is truncated, damaged or no checkpoint; copy or download it again.",
        ) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BufferedIOBase, where: str) -> None:
        super().__init__(file, encoding="latin1")
        self._where = where
        self._classes: dict[str, Any] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        """A function or class of ours that stands for the global; nothing is imported."""
        path = f"{module}.{name}"
        if path in FUNCTIONS:
            return _Function(FUNCTIONS[path])
        if path in ("collections.OrderedDict", "torch.nn.modules.container.OrderedDict"):
            return Dictionary
        if module in ("torch", "torch.storage", "torch.cuda") and name.endswith("Storage"):
            kind = name.removesuffix("Storage")
            if kind in DTYPES:
                return DTYPES[kind]
            raise pickle.UnpicklingError(f"tensors of {kind or 'no'} type")
        if module == "torch" and vars(torch).get(name) in DTYPES.values():
            return vars(torch)[name]
        if CONFIGURATION.fullmatch(path):
            return self._classes.setdefault(path, type(name, (Inert,), {"__module__": "inert"}))
        raise BackboneError(
            "a checkpoint's pickle may name tensors and configuration objects alone, for others can run code",
            f"{self._where} names {path}; nothing of it was run",
            "Do not trust this file. If you made it yourself, save {'model': model.state_dict()} alone.",
        )

    def persistent_load(self, pid: Any) -> Any:
        """A storage: (key, dtype, elements, first element)."""
        kind, dtype, key, _, elements = pid[:5]
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a reference to {kind!r}, which is no storage")
        first = pid[5][1] if len(pid) > 5 and pid[5] else 0  # a view in the older format
        return str(key), dtype, int(elements), int(first)


def _tensor(
    storage: tuple[str, torch.dtype, int, int], offset: int, shape: Any, stride: Any, *rest: Any
) -> StoredTensor:
    key, dtype, elements, first = storage
    shape, stride = tuple(map(int, shape)), tuple(map(int, stride))
    start = int(offset) + first
    last = start + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if min(start, *shape, *stride, 0) < 0 or (0 not in shape and last >= elements + first):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} reaches past its {elements} elements")
    return StoredTensor(key, dtype, elements, start, shape, stride)


def _tensor_with_dtype(
    storage: Any, offset: int, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: torch.dtype, *_: Any
) -> StoredTensor:
    """The storage counts bytes."""
    key, _, size, first = storage
    return _tensor((key, dtype, size // dtype.itemsize, first), offset, shape, stride)


def _enumerated(kind: type[Inert], name: str) -> Any:
    """Python 3.11 pickles an enumeration's value as getattr(class, name)."""
    if not (isinstance(kind, type) and issubclass(kind, Inert)):
        raise pickle.UnpicklingError("getattr of something that is no configuration class")
    return kind(name)


def _mapping(*arguments: Any) -> Dictionary:
    given = arguments[-1] if arguments and isinstance(arguments[-1], Mapping) else {}
    return Dictionary(given)


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_with_dtype,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *names: ":".join(map(str, names)),
    "collections.defaultdict": _mapping,
    "collections.Counter": _mapping,
    "_codecs.encode": _encoded,
    "builtins.getattr": _enumerated,
    "__builtin__.getattr": _enumerated,
}
"""The globals that mean something here, and what is done instead of calling them."""
