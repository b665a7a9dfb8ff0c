"""The `pituning` command. It stands outside the package so that `--help` answers without loading torch."""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import sys
from collections.abc import Sequence

VERBS = {
    "demo": "show the whole method on real digits, offline, in about a minute",
    "train": "train one expert for a task and put it, with its embedding, into a pool",
    "embed": "compute a task's Fisher embedding again",
    "predict": "rank the pool's experts by how much they should help a task",
    "tune": "predict, interpolate and write one plain adapter for a task",
    "eval": "score an adapter on a task's split",
    "graph": "draw the similarities of a pool's tasks as an HTML page",
    "pool": "list, show, add, remove or verify the experts of a pool",
    "check": "find every fault of a task, a pool or an expert before anything is trained",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        return 0
    verb = given[0]
    if verb == "--version":
        from importlib.metadata import version

        print(f"pituning {version('pituning')}")
        return 0
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "Run `pituning --help`."
        print(f"error: a verb is one of {', '.join(VERBS)}; given: {verb!r}. {hint}", file=sys.stderr)
        return 2
    return _run(verb, given[1:])


def _run(verb: str, arguments: list[str]) -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and our forks do not mix
    module = importlib.import_module(f"pituning.cli.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"pituning {verb}",
        description=f"{module.__doc__}",
        epilog=f"example: {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args(arguments)
    from pituning.cli.terminal import quiet_libraries
    from pituning.errors import PituningError

    quiet_libraries()
    try:
        document, text = module.run(options)
        print(json.dumps(document, indent=1) if options.json else text)
        sys.stdout.flush()
    except PituningError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing half-written was left", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(bool(document.get("faults")) * 2)


def _usage() -> str:
    lines = ["usage: pituning VERB ... [--json] [--seed N] [--help]", ""]
    lines += ["From a folder of adapters to one better adapter, with a reason for every choice.", ""]
    lines += [f"  {verb:<8} {text}" for verb, text in VERBS.items()]
    return "\n".join([*lines, "", "`pituning VERB --help` shows a verb's options and an example."])


if __name__ == "__main__":
    sys.exit(main())
