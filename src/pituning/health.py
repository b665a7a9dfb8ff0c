"""What is wrong in a pool, and how it is mended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext, suppress

from filelock import FileLock, Timeout

from pituning.agreement import Origin, disagreements
from pituning.errors import PituningError, PoolError, StaleEmbeddingError
from pituning.manifest import SCRATCH, entry_path, read_folder
from pituning.places import LOCK
from pituning.predict.embedding import EMBEDDING
from pituning.safe_files import permitted
from pituning.shelf import Shelf
from pituning.sketches import Records, joined, lacking, read_records, replace_records, stray_files
from pituning.store import NEW, WORK, delete


def verify(shelf: Shelf) -> list[str]:
    """See `Pool.verify`."""
    found: list[str] = []
    origins: dict[str, Origin] = {}
    records: list[Records] = []
    for name in shelf:
        try:
            files, faults = shelf.store.look(name)
            found += [f"{name}: {fault}" for fault in faults]
            if not faults:
                expert = shelf.expert(name, files)
                origins[name] = Origin.of(expert)
                records.append(shelf.record_of(expert, files))
        except PituningError as error:
            if name in shelf.store:  # not removed by another process meanwhile
                found.append(f"{name}: {error}")
    found += disagreements(origins)
    found += shelf.unsketched(records)
    try:
        with shelf.store.lock() if (shelf.path / LOCK).exists() else nullcontext():
            strays = shelf.store.strays()
    except OSError:  # not ours to write: look without the lock
        strays = shelf.store.strays()
    found += [f"{path.relative_to(shelf.path)}: {reason}" for path, reason in strays.items()]
    return sorted(found)


def repair(shelf: Shelf) -> list[str]:
    """See `Pool.repair`."""
    store, done = shelf.store, []
    left = (shelf.path / SCRATCH).is_dir()
    with store.writing():
        _require_readable(shelf)
        done += ["finished or cleared what a killed writer left"] if left else []
        for path in store.strays():
            if (path.name == NEW or path.name.startswith(WORK)) and not path.is_symlink():
                with suppress(Timeout), FileLock(path / LOCK, timeout=0) if path.is_dir() else nullcontext():
                    delete(path)
                    done.append(f"{path.name}: deleted, it belongs to a run that has ended")
            elif path.name != SCRATCH:
                done.append(f"{path.name}: moved to {store.quarantine(path)}")
        for name in shelf:
            done += [f"{name}: {what}" for what in _mend(shelf, name)]
        for path in stray_files(shelf.path):
            done.append(f"{path.name}: moved to {store.quarantine(path)}")
        there, wanted = read_records(shelf.path), joined(shelf.record(name) for name in shelf)
        if len(there) != len(wanted) or any(lacking(there, wanted)):
            replace_records(shelf.path, wanted)
            done.append("made the sketches again")
    return done


@permitted(PoolError)
def _require_readable(shelf: Shelf) -> None:
    """Raise PoolError before anything is mended where a file may not be read: it may be sound."""
    for name in shelf:
        files = [entry_path(shelf.path, name)]
        for folder in (shelf.path / name, shelf.path / SCRATCH / name):  # where a killed writer left it
            if folder.is_dir() and not folder.is_symlink():  # glob would pass over one that is locked
                files += folder.iterdir()
        for path in files:
            if path.is_file() and not path.is_symlink():
                path.open("rb").close()


def _mend(shelf: Shelf, name: str) -> Iterator[str]:
    """Repair one expert."""
    store, folder = shelf.store, shelf.path / name
    try:
        files, faults = read_folder(folder, store.entry(name))
        for file in [file for file, fault in faults.items() if fault == "is stray"]:
            del faults[file]
            yield f"moved {file} to {store.quarantine(folder / file)}"
        damage = "; ".join(f"{file} {fault}" for file, fault in faults.items())
        expert = None if set(faults) - {EMBEDDING} else shelf.expert(name, files)
    except PituningError as error:
        if isinstance(error.__cause__, PermissionError):  # it may be sound
            raise
        damage, expert = error.given, None
    if expert is None:
        yield f"moved to {store.quarantine(entry_path(shelf.path, name), folder)}, for {damage}"
        return
    try:
        shelf.embedding(expert, files)
    except StaleEmbeddingError as error:
        faults[EMBEDDING] = f"was of no use ({error.given})"
    if faults:
        files.pop(EMBEDDING, None)
        with shelf.sketched(expert, None, b""):
            store.rewrite(name, files)
        yield f"dropped the embedding, which {faults[EMBEDDING]}; run `pituning embed`"
