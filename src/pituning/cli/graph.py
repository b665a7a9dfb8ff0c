"""Draw the similarities of a pool's tasks in one HTML page: graph, heat map, clusters, nearest tasks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pituning.cli.tasks import pool_named
from pituning.errors import PoolError
from pituning.interpolate.compatible import Space
from pituning.pool import Pool
from pituning.predict import TaskEmbedding, TaskGraph
from pituning.predict.delta import similarities_in_delta
from pituning.predict.sketch import layout
from pituning.report import Report, write_report

EXAMPLE = "pituning graph --pool pool --out graph.html"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--pool", required=True, help="pool folder, or mini20")
    parser.add_argument("--out", required=True, help="HTML file; must not exist")
    parser.add_argument(
        "--space",
        choices=get_args(Space),
        default="parameters",
        help="delta compares LoRA experts of any rank (default: parameters)",
    )


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Compute all pairs and draw them."""
    pool, out = pool_named(options.pool), Path(options.out)
    if out.exists():
        raise PoolError("a report is never overwritten", f"{out} exists", "Choose another --out.")
    names, matrix = draw(pool, out, [options.command], space=options.space)
    document = {"names": names, "similarity": matrix, "report": str(out)}
    left = [name for name in pool if pool.has_embedding(name) and name not in names]
    told = (
        f"; not drawn, being of another kind, embedded in another way, or zero: {', '.join(left)}"
        if left
        else ""
    )
    return document, f"{len(names)} tasks drawn in {out}{told}"


def draw(
    pool: Pool, out: Path, commands: Sequence[str] = (), *, space: Space = "parameters"
) -> tuple[list[str], list[list[float]]]:
    """Write the page; returns the names of the pool's embedded experts and their similarities.

    Only embeddings of the same components (in delta space, of LoRA) can be compared: those that most experts
    have are drawn.

    Raises:
        PituningError: if fewer than two experts are embedded alike, or the page cannot be written.
    """
    alike: dict[bytes | str, dict[str, TaskEmbedding]] = {}
    modality = {}
    for name in pool:
        expert, embedding = pool.read(name)
        if embedding and not embedding.is_zero and (space == "parameters" or expert.method == "LORA"):
            kind = layout(embedding) if space == "parameters" else embedding.manner
            alike.setdefault(kind, {})[name] = embedding
            modality[name] = expert.card.modality
    drawn = max(alike.values(), key=len, default={})
    names = list(drawn)
    if len(names) < 2:
        must = "a graph needs two embedded experts of one kind of adapter (in delta space, of LoRA)"
        fix = "Run `pituning embed` on more; LoRA of several ranks is drawn with --space delta."
        raise PoolError(must, f"{len(names)}", fix)
    if space == "delta":
        found = similarities_in_delta(drawn)
        matrix = [[found[one][other] for other in names] for one in names]
    else:
        matrix = TaskGraph([*drawn.values()], names=names).similarity.tolist()
    report = Report(
        title=f"The tasks of {pool.path.resolve().name}",
        names=names,
        modalities=[modality[name] for name in names],
        similarity=matrix,
        commands=commands,
    )
    write_report(report, out)
    return names, matrix
