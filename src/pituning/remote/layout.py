"""The pool at a place: nothing in it is believed before it was checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, final

from pituning.errors import PituningError, PoolError
from pituning.manifest import ENTRIES, FORMAT, MANIFEST, parse_entry, parse_facts
from pituning.pool import EXPERT_FILES, NEEDED, Pool
from pituning.remote.place import Place
from pituning.safe_files import MOST_JSON_BYTES, MOST_TENSOR_BYTES
from pituning.spelling import did_you_mean, listed

AT_ONCE = 8  # a small file costs a round trip, whatever its size

Given = TypeVar("Given")
Found = TypeVar("Found")


@final
@dataclass(frozen=True)
class Transfer:
    """What a push or a pull did.

    Attributes:
        where: the place.
        revision: the Hub's commit: the one that was made or, where nothing was to be pushed, found; of a
            pull the one that every file is of. "" for a URL.
        experts: those that were stored.
        skipped: those that were there already, equal in every file.
        notes: what to know about them.
    """

    where: str
    revision: str
    experts: list[str]
    skipped: list[str]
    notes: list[str]


@final
class SharedPool:
    """What a push left at a place: `pool.json`, an entry and a folder an expert."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @cached_property
    def names(self) -> list[str]:
        """The experts' names, sorted.

        Raises:
            PoolError: if one of them could be a path.
        """
        names = [file.removesuffix(".json") for file in self.place.listing() if file.endswith(".json")]
        for name in names:
            Pool.check_name(name)
        return sorted(names)

    @cached_property
    def init_seed(self) -> int | None:
        """The seed of the initialisation that its experts share; None where no pool was pushed yet.

        Raises:
            PoolError: if its `pool.json` is not whole.
        """
        try:
            facts = parse_facts(self._read(MANIFEST), self.place.where)
        except FileNotFoundError:
            return None
        except PituningError:
            raise
        except ValueError as error:
            raise PoolError(
                f"{MANIFEST} at {self.place.where} must be whole",
                str(error),
                "A push that was stopped may have left it: remove it, and push again.",
            ) from error
        if facts["format"] != FORMAT:
            raise PoolError(
                f"a pool is shared in format {FORMAT}",
                f"format {facts['format']} at {self.place.where}",
                "Open the pool with this version, and push it again.",
            )
        return int(facts["init_seed"])

    def entry(self, name: str) -> dict[str, str]:
        """File name -> SHA-256.

        Raises:
            PoolError: if the entry is not whole, or names a file that no expert has.
        """
        path = f"{ENTRIES}/{name}.json"
        try:
            files = parse_entry(self._read(path))
            odd = sorted({*files} - EXPERT_FILES) + [f"no {file}" for file in sorted(NEEDED - {*files})]
            if odd:
                raise ValueError(f"an expert has {', '.join(sorted(EXPERT_FILES))}, and here is {odd[0]}")
        except PituningError:
            raise
        except (FileNotFoundError, ValueError) as error:
            raise PoolError(
                "the entry of an expert names its files and their SHA-256",
                f"{path} at {self.place.where}: {error}",
                "Push the expert again with --replace.",
            ) from error
        return files

    def entries(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """Name -> entry."""
        names = list(names)
        return dict(zip(names, at_once(self.entry, names), strict=True))

    def files(
        self, name: str, entry: Mapping[str, str], files: Collection[str] = EXPERT_FILES
    ) -> dict[str, bytes]:
        """Those of an expert's `files` that its entry names, which must have the hashes that it says.

        Raises:
            PoolError: if one is missing or has another hash.
        """
        wanted = [file for file in entry if file in files]
        contents = at_once(lambda file: self._file(name, file, entry[file]), wanted)
        return dict(zip(wanted, contents, strict=True))

    def _file(self, name: str, file: str, digest: str) -> bytes:
        fault = "was altered or truncated: its SHA-256 is another"
        try:
            content = self._read(f"{name}/{file}")
            if hashlib.sha256(content).hexdigest() == digest:
                return content
        except PituningError:
            raise
        except FileNotFoundError:
            fault = "is missing"
        except ValueError as error:
            fault = str(error)
        raise PoolError(
            f"expert {name!r} at {self.place.where} must be as it was pushed",
            f"{file} {fault}",
            f"Nothing of {name!r} was stored. Push it again by its name with --replace, or pull the others.",
        )

    def _read(self, path: str) -> bytes:
        most = MOST_TENSOR_BYTES if path.endswith(".safetensors") else MOST_JSON_BYTES
        return self.place.read(path, most)


def at_once(task: Callable[[Given], Found], given: Collection[Given]) -> list[Found]:
    """What `task` finds for each, in their order; a few are asked at the same time."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(task, given))


def chosen_names(
    names: Sequence[str] | None, known: Sequence[str], where: str, *, a_transfer: str, fix: str
) -> list[str]:
    """The experts that were named, sorted; all of `known` where none was.

    Raises:
        PoolError: if one is not `known` to be `where` they are looked for, or there is none at all.
    """
    unknown = sorted({*(names or ())}.difference(known))
    if unknown:
        raise PoolError(
            f"the expert must be {where}",
            listed(unknown),
            f"{did_you_mean(unknown[0], known)}It holds: {listed(known) or 'none'}.",
        )
    if not known:
        raise PoolError(f"{a_transfer} needs an expert", f"none {where}", fix)
    return sorted({*names}) if names else [*known]
