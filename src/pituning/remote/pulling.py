"""From a place into a pool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pituning.errors import PoolError, RemoteError
from pituning.manifest import MANIFEST
from pituning.pool import Pool
from pituning.remote.layout import SharedPool, Transfer, chosen_names
from pituning.remote.place import place_of
from pituning.spelling import listed


def pull(
    pool: Pool | str | Path,
    where: str,
    names: Sequence[str] | None = None,
    revision: str | None = None,
    *,
    replace: bool = False,
    progress: bool = False,
) -> Transfer:
    """Store experts that `push` left at a place, bit for bit; run again, it goes on where it stopped.

    Args:
        pool: its folder is made, with the init_seed of the place, if it is not there.
        where: `hf://USER/NAME` or `USER/NAME` (a Hub repository), or a URL that fsspec knows.
        names: of the experts; all where not given.
        revision: branch, tag or commit of a Hub repository.
        replace: replace experts of these names that differ.
        progress: show a bar.

    Raises:
        RemoteError: the place cannot be reached, or no pool is there.
        PoolError: an expert is not there, not whole or altered, or another has its name; those pulled before
            it stay, the pool has nothing of it.
        ExpertError, StaleEmbeddingError: a file is not what its name says.
    """
    if names:
        for name in names:
            Pool.check_name(name)
    shared = SharedPool(place_of(where, revision))
    where = shared.place.where
    if shared.init_seed is None:
        raise RemoteError(
            f"a pool that was pushed has {MANIFEST}",
            f"none at {where}",
            "Push one, or look for a mistyped name.",
        )
    chosen = chosen_names(names, shared.names, f"at {where}", a_transfer="a pull", fix="Push some first.")
    entries = shared.entries(chosen)
    target = pool if isinstance(pool, Pool) else _open(Path(pool))
    skipped = [name for name in chosen if target is not None and _is_there(target, name, entries[name])]
    waiting = [name for name in chosen if name not in {*skipped}]
    taken = [name for name in waiting if target is not None and name in target]
    if taken and not replace:
        raise PoolError(
            "an expert of the pool is not replaced unasked",
            f"{listed(taken)} differ from those at {where}",
            "Name others, or pass --replace.",
        )
    for name in tqdm(waiting, desc="pull", unit="expert", disable=not progress):
        files = shared.files(name, entries[name])
        if target is None:
            target = Pool.create(Path(str(pool)), init_seed=shared.init_seed)
        target.admit(name, files, replace=replace)
    return Transfer(where, shared.place.revision, waiting, skipped, _notes(target, shared.init_seed))


def _open(folder: Path) -> Pool | None:
    """The pool of a folder that has one already."""
    return Pool(folder) if (folder / MANIFEST).exists() else None


def _is_there(pool: Pool, name: str, entry: dict[str, str]) -> bool:
    """Whether the pool has the expert, with these hashes and undamaged."""
    if name not in pool or pool.hashes(name) != entry:
        return False
    try:
        pool.files(name)
    except PoolError:
        return False
    return True


def _notes(pool: Pool | None, init_seed: int) -> list[str]:
    if pool is None or pool.init_seed == init_seed:
        return []
    return [
        f"experts pulled start from init_seed {init_seed}, those trained here from {pool.init_seed}: they "
        "can be mixed in delta space, not in parameters space"
    ]
