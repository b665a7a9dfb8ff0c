"""`pool push` and `pool pull`."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any

from pituning.cli.tasks import require_own_pool
from pituning.cli.terminal import progress_wanted
from pituning.errors import PoolError
from pituning.remote import pull, push

ACTIONS = ("push", "pull")


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of both."""
    places = "a Hub repository (USER/NAME or hf://USER/NAME) or a URL (s3://, gs://, file:// ...)"
    parser.add_argument("--to", metavar="WHERE", help=f"push: {places}")
    parser.add_argument("--from", dest="source", metavar="WHERE", help="pull: as --to")
    parser.add_argument(
        "--revision", help="pull: branch, tag or commit of the Hub repository (default: main)"
    )


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Push or pull the experts named, or all."""
    pushing = options.action == "push"
    places = {"--to": options.to, "--from": options.source}
    option = "--to" if pushing else "--from"
    where = places.pop(option)
    given = [other for other, place in places.items() if place]
    if given or not where:
        raise PoolError(
            f"`pool {options.action}` takes {option}",
            given[0] if given else "none",
            f"pituning pool {options.action} POOL {option} USER/NAME",
        )
    _quiet()
    shown = {"replace": options.replace, "progress": progress_wanted(options.json)}
    names = options.items or None
    if pushing:
        done = push(options.pool, where, names, **shown)
    else:
        require_own_pool(options.pool)
        done = pull(options.pool, where, names, options.revision, **shown)
    at = f" at commit {done.revision}" if done.revision else ""
    lines = [f"{options.action}ed {len(done.experts)} experts {option.strip('-')} {done.where}{at}"]
    lines += [f"{len(done.skipped)} were there already"] if done.skipped else []
    document = {
        "pool": str(options.pool),
        option.strip("-"): done.where,
        "revision": done.revision,
        f"{options.action}ed": done.experts,
        "skipped": done.skipped,
        "notes": done.notes,
    }
    return document, "\n".join([*lines, *done.notes])


def _quiet() -> None:
    """The bar is ours alone."""
    with suppress(ImportError):  # the extra is not there, which is said where it is needed
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
