"""What a pool's folder holds: `pool.json`, and the SHA-256 of every file of each expert in `.manifest/`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pituning.errors import PoolError
from pituning.safe_files import parse_json, permitted, read_file

MANIFEST = "pool.json"
ENTRIES = ".manifest"
SCRATCH = ".scratch"
SKETCHES = ".sketches"
FORMAT = 2
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
DIGEST = re.compile(r"[0-9a-f]{64}")
SCRATCH_1 = re.compile(r"\.scratch-[A-Za-z0-9_]+")  # of format 1


def read_facts(pool: Path) -> dict[str, int]:
    """`pool.json`: format and init_seed.

    Raises:
        PoolError: unless it is whole, and of this format or an older one.
    """
    found = _read_manifest(pool)
    return {"format": found["format"], "init_seed": found["init_seed"]}


def parse_facts(content: bytes, where: object) -> dict[str, Any]:
    """What `pool.json` holds; of format 1 also the entries.

    Raises:
        PoolError: unless it is whole, and of this format or an older one.
    """
    try:
        found: dict[str, Any] = parse_json(content)
        known, seed = found["format"], found["init_seed"] if found["format"] in (1, FORMAT) else 0
        if any(type(number) is not int or not 0 <= number < 2**63 for number in (known, seed)) or not known:
            raise ValueError(f"format {known!r} and init_seed {seed!r} must be natural numbers")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _no_manifest(where, error) from error
    if known > FORMAT:
        raise PoolError(
            f"this version reads pools up to format {FORMAT}",
            f"format {known} in {where}",
            "Update pituning.",
        )
    return found


@permitted(PoolError)
def _read_manifest(pool: Path) -> dict[str, Any]:
    try:
        content = read_file(pool / MANIFEST)
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        raise _no_manifest(pool, error) from error
    return parse_facts(content, pool)


def _no_manifest(where: object, error: Exception) -> PoolError:
    return PoolError(
        f"{MANIFEST} must be the manifest of a pool",
        f"{where}: {type(error).__name__} {error}",
        f'Restore it from a copy, or write {{"format": {FORMAT}, "init_seed": SEED}} into it.',
    )


def write_facts(pool: Path, init_seed: int) -> None:
    """Write `pool.json` at once."""
    write_json(pool / MANIFEST, facts_of(init_seed), pool / f".{MANIFEST}.new")


def facts_of(init_seed: int) -> dict[str, int]:
    """What `pool.json` holds."""
    return {"format": FORMAT, "init_seed": init_seed}


@permitted(PoolError)
def names_in(pool: Path) -> list[str]:
    """The experts' names, sorted."""
    try:
        files = os.listdir(pool / ENTRIES)
    except FileNotFoundError:
        return []
    return sorted(file[:-5] for file in files if file.endswith(".json") and NAME.fullmatch(file[:-5]))


def entry_path(pool: Path, name: str) -> Path:
    """Where an expert's entry lies."""
    return pool / ENTRIES / f"{name}.json"


@permitted(PoolError)
def read_entry(pool: Path, name: str) -> dict[str, str]:
    """File name -> SHA-256 of an expert.

    Raises:
        FileNotFoundError: there is none.
        PoolError: it is not whole. Its names become paths, so they are checked too.
    """
    path = entry_path(pool, name)
    try:
        return parse_entry(read_file(path))
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, ValueError) as error:
        raise PoolError(
            "an expert's entry in the manifest names its files and their SHA-256",
            f"{path}: {error}",
            "Run `pituning pool verify POOL --repair`.",
        ) from error


def parse_entry(content: bytes) -> dict[str, str]:
    """File name -> SHA-256 in an expert's entry.

    Raises:
        ValueError: it is not whole. Its names become paths, so they are checked too.
    """
    try:
        files: dict[str, str] = parse_json(content)["files"]
        _check_files(files)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    if not files:
        raise ValueError("no file is named")
    return files


def write_entry(pool: Path, name: str, files: Mapping[str, str]) -> None:
    """Replace an expert's entry at once: from this moment on the expert is what has these files."""
    write_json(entry_path(pool, name), {"files": files}, pool / SCRATCH / ".entry")


def json_text(value: Any) -> str:
    """As the pool's own files have it."""
    return json.dumps(value, indent=1, sort_keys=True)


def write_json(path: Path, value: Any, scratch: Path) -> None:
    """Write beside, then move into place."""
    try:
        scratch.write_text(json_text(value))
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def file_hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """File name -> SHA-256."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}


@permitted(PoolError)
def read_folder(folder: Path, files: Mapping[str, str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """An expert's files that are as its entry says, and file -> fault of the others.

    Raises:
        PoolError: one may not be read, and so may be sound.
    """
    if folder.is_symlink():
        return {}, dict.fromkeys(files, "lies behind a link, which is never followed")
    content, faults = {}, {}
    for file, digest in files.items():
        try:
            found = read_file(folder / file)
            if hashlib.sha256(found).hexdigest() == digest:
                content[file] = found
            else:
                faults[file] = "was altered or truncated"
        except (FileNotFoundError, NotADirectoryError):
            faults[file] = "is missing"
        except PermissionError:
            raise
        except (OSError, ValueError):
            link = (folder / file).is_symlink()
            faults[file] = "is a link, which is never followed" if link else "was altered or truncated"
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        faults |= {file: "is stray" for file in os.listdir(folder) if file not in files}
    return content, faults


def migrate(pool: Path) -> None:
    """Under the pool's lock: bring a pool of format 1, whose `pool.json` held all entries, to this format.

    `pool.json` is replaced last; stopped before, the next reader does it again.

    Raises:
        PoolError: if the manifest is not whole.
    """
    manifest = _read_manifest(pool)
    if manifest["format"] != 1:
        return
    entries = _entries_1(pool, manifest)
    for folder in (SCRATCH, ENTRIES):
        (pool / folder).mkdir(exist_ok=True)
    for name, (files, scratch) in entries.items():
        write_entry(pool, name, files)
        if scratch and not (pool / scratch).is_symlink() and (pool / scratch / name).is_dir():
            if (pool / name).exists():
                os.replace(pool / name, pool / scratch / f".old-{name}")
            os.replace(pool / scratch / name, pool / name)
    write_facts(pool, manifest["init_seed"])
    for left in [pool / SCRATCH, *pool.glob(".scratch-*")]:
        shutil.rmtree(left, ignore_errors=True)


def _entries_1(pool: Path, manifest: dict[str, Any]) -> dict[str, tuple[dict[str, str], str]]:
    """Name -> files of the newest version, and the scratch folder where it may still lie."""
    entries = {}
    try:
        for name, entry in manifest["experts"].items():
            newest = entry.get("next", entry)
            files, scratch = newest["files"], newest.get("scratch", "")
            _check_files({name: "0" * 64, **files})
            if scratch and not SCRATCH_1.fullmatch(scratch):
                raise ValueError(f"{scratch!r} is no scratch folder")
            entries[name] = (files, scratch)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise PoolError(
            f"{MANIFEST} must be the manifest of a pool",
            f"{pool}: {type(error).__name__} {error}",
            "Restore it from a copy.",
        ) from error
    return entries


def _check_files(files: Mapping[str, str]) -> None:
    """Raise ValueError for a name that could be a path, or what is no SHA-256."""
    for name, digest in files.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an expert or a file")
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no SHA-256")
