"""Draw the similarities of a pool's tasks as a heat map in one HTML page."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import Any

from pituning.errors import PoolError
from pituning.pool import Pool
from pituning.predict import TaskGraph
from pituning.report.heatmap import heatmap_page

EXAMPLE = "pituning graph --pool pool --out graph.html"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--pool", required=True, help="pool folder")
    parser.add_argument("--out", required=True, help="HTML file; must not exist")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Compute all pairs and draw them."""
    pool, out = Pool(options.pool), Path(options.out)
    if out.exists():
        raise PoolError("a report is never overwritten", f"{out} exists", "Choose another --out.")
    names, matrix = draw(pool, out)
    document = {"names": names, "similarity": matrix, "report": str(out)}
    return document, f"{len(names)} tasks drawn in {out}"


def draw(pool: Pool, out: Path) -> tuple[list[str], list[list[float]]]:
    """Write the page; returns the names of the pool's embedded experts and their similarities.

    Raises:
        PoolError: if fewer than two experts are embedded, or the page cannot be written.
    """
    names = [name for name in pool if pool.has_embedding(name)]
    if len(names) < 2:
        raise PoolError(
            "a graph needs two embedded experts", f"{len(names)}", "Run `pituning embed` on more."
        )
    graph = TaskGraph([pool.embedding(name) for name in names], names=names)
    matrix = graph.similarity.tolist()
    scratch = out.with_name(f".{out.name}.new")
    try:
        scratch.write_text(heatmap_page(names, matrix))
        os.replace(scratch, out)
    except OSError as error:
        raise PoolError(
            "the report must be writable", f"{out}: {error.strerror}", "Choose another --out."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return names, matrix
