"""From a pool to a place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pituning.errors import PoolError, RemoteError
from pituning.manifest import facts_of, file_hashes, json_text
from pituning.pool import Pool
from pituning.remote.layout import SharedPool, Transfer, at_once, chosen_names
from pituning.remote.model_card import is_ours, model_card
from pituning.remote.place import README, place_of
from pituning.spelling import listed


def push(
    pool: Pool | str | Path,
    where: str,
    names: Sequence[str] | None = None,
    *,
    replace: bool = False,
    progress: bool = False,
) -> Transfer:
    """Upload experts as they lie in the pool, with the SHA-256 of every file.

    To the Hub in one commit, with a model card; the repository is made if it is not there. To a URL one
    expert after the other, the entry that makes it visible last; run again, it goes on where it stopped.

    Args:
        pool: the pool.
        where: `hf://USER/NAME` or `USER/NAME` (a Hub repository), or a URL that fsspec knows.
        names: of the experts; all where not given.
        replace: replace experts that differ; those that are named are sent again in any case.
        progress: show a bar.

    Raises:
        RemoteError: the place cannot be reached or written.
        PoolError: an expert is not in the pool, or damaged, or another is there under its name.
    """
    pool = pool if isinstance(pool, Pool) else Pool(pool)
    held = list(pool)
    chosen = chosen_names(names, held, f"in {pool.path}", a_transfer="a push", fix="Train or add one first.")
    entries = {name: pool.hashes(name) for name in chosen}
    place = place_of(where, writing=True)
    shared = SharedPool(place)
    there = _there(shared, chosen, replace)
    named = {*(names or ())} if replace else set()  # the entry may be right and a file damaged
    skipped = [name for name in chosen if there.get(name) == entries[name] and name not in named]
    waiting = [name for name in chosen if name not in {*skipped}]
    taken = [name for name in waiting if name in there]
    if taken and not replace:
        raise PoolError(
            "an expert that was pushed is not replaced unasked",
            f"{listed(taken)} differ from those at {place.where}",
            "Name others, or pass --replace.",
        )
    notes = _notes(pool, shared)
    if not waiting:
        return Transfer(place.where, place.revision, [], skipped, notes)
    if shared.init_seed is None:
        place.start(json_text(facts_of(pool.init_seed)).encode())
    for name in tqdm(waiting, desc="push", unit="expert", disable=not progress):
        files = pool.files(name)
        entry = json_text({"files": file_hashes(files)}).encode()
        place.put(name, files, entry, sorted({*there.get(name, ())}.difference(files)))
    card = ""
    if place.repository and _may_write_card(shared):
        card = model_card(pool, shared, waiting)
    elif place.repository:
        notes.append(f"{README} was left alone: someone else wrote it")
    revision = place.finish(f"pituning pool push: {listed(waiting)}", card)
    return Transfer(place.where, revision, waiting, skipped, notes)


def _there(shared: SharedPool, chosen: Sequence[str], replace: bool) -> dict[str, dict[str, str]]:
    """The entries of those that are there already; with `replace`, damaged ones have no files."""
    folded = {name.casefold(): name for name in shared.names}
    for name in chosen:
        other = folded.get(name.casefold(), name)
        if other != name:
            raise PoolError(
                "names in a pool differ by more than case, which some disks ignore",
                f"{name!r}, and {other!r} at {shared.place.where}",
                "Add it under another name, with --name.",
            )

    def entry(name: str) -> dict[str, str]:
        try:
            return shared.entry(name)
        except PoolError:
            if not replace:
                raise
            return {}

    both = sorted({*chosen}.intersection(shared.names))
    return dict(zip(both, at_once(entry, both), strict=True))


def _may_write_card(shared: SharedPool) -> bool:
    """Whether there is no README yet, or one that a push wrote."""
    try:
        return is_ours(shared.place.read(README, 1 << 20))
    except FileNotFoundError:
        return True
    except RemoteError:
        raise
    except ValueError:  # no card of ours is that big
        return False


def _notes(pool: Pool, shared: SharedPool) -> list[str]:
    if shared.init_seed in (None, pool.init_seed):
        return []
    return [
        f"the pool at {shared.place.where} has init_seed {shared.init_seed}, this one {pool.init_seed}: "
        "experts of both can be mixed in delta space, not in parameters space"
    ]
