"""What a pool's folder holds: `pool.json`, with the SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from pituning.errors import PoolError

MANIFEST = "pool.json"
FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
SCRATCH = re.compile(r"\.scratch-[A-Za-z0-9_]+")


def read_manifest(pool: Path) -> dict[str, Any]:
    """Format, init_seed and experts: name -> {files: {file: hash}, next: {files, scratch}}, one or both.

    `next` is what was written over the expert and lies in a scratch folder, or already in place.

    Raises:
        PoolError: unless it is whole. Its names become paths, so they are checked too.
    """
    try:
        manifest: dict[str, Any] = json.loads((pool / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise PoolError(
                f"this version reads pools of format {FORMAT}",
                f"format {manifest['format']}",
                "Update pituning.",
            )
        for name, entry in manifest["experts"].items():
            files = (
                [*entry["files"]]
                if "next" not in entry
                else [*entry.get("files", ()), *entry["next"]["files"]]
            )
            odd = [place for place in (name, *files) if not NAME.fullmatch(place)]
            if "next" in entry and not SCRATCH.fullmatch(entry["next"]["scratch"]):
                odd.append(entry["next"]["scratch"])
            if odd:
                raise KeyError(f"{odd[0]!r} is no name of an expert or a file")
    except PoolError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PoolError(
            f"{MANIFEST} must be the manifest of a pool",
            f"{pool}: {type(error).__name__} {error}",
            "Restore it from a copy.",
        ) from error
    return manifest


def write_manifest(pool: Path, manifest: dict[str, Any]) -> None:
    """Replace the manifest at once."""
    scratch = pool / f".{MANIFEST}.new"
    try:
        scratch.write_text(json.dumps(manifest, indent=1, sort_keys=True))
        os.replace(scratch, pool / MANIFEST)
    finally:
        scratch.unlink(missing_ok=True)


def file_hashes(folder: Path) -> dict[str, str]:
    """File name -> SHA-256."""
    return {path.name: _sha256(path) for path in sorted(folder.iterdir())}


def file_faults(folder: Path, files: dict[str, str]) -> list[str]:
    """How the folder's files differ from those in the manifest."""
    faults = []
    for file, digest in files.items():
        if not (folder / file).is_file():
            faults.append(f"{file} is missing")
        elif _sha256(folder / file) != digest:
            faults.append(f"{file} was altered or truncated")
    if folder.is_dir():
        faults += [f"{path.name} is stray" for path in folder.iterdir() if path.name not in files]
    return faults


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
