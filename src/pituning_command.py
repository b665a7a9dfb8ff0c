"""The `pituning` command. It stands outside the package so that `--help` answers without loading torch."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import io
import json
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

VERBS = {
    "demo": "show the whole method on one of twenty small tasks, offline, in a minute or two",
    "train": "train one expert for a task and put it, with its embedding, into a pool",
    "embed": "compute a task's Fisher embedding again",
    "predict": "rank the pool's experts by how much they should help a task",
    "tune": "predict, interpolate and write one plain adapter for a task",
    "eval": "score an adapter on a task's split",
    "bench": "compare the method with what one would do instead, on the same data and pool",
    "graph": "draw the similarities of a pool's tasks as an HTML page",
    "pool": "build, list, verify, push or pull a pool of experts",
    "convert": "make a model folder, and expert folders, of an official OFA checkpoint",
    "check": "find every fault of a task, a pool or an expert before anything is trained",
}

TOGETHER = ("train", "tune")  # in the processes that a launcher starts; the first alone runs the other verbs
LAUNCHED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; `--help` has the rest."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        said = message if message.endswith("?") else f"{message}."
        print(f"error: {said} Run `{self.prog} --help` for an example.", file=sys.stderr)
        sys.exit(2)

    def finish(self) -> None:
        """Add what every verb takes, and a usage line with what must be given alone."""
        self.add_argument("--json", action="store_true", help="one JSON document on stdout")
        if "seed" not in [action.dest for action in self._actions]:
            self.add_argument("--seed", type=int, help="taken by every verb; this one has no use for it")
        needed = []
        for action in self._actions:
            name = action.metavar or "|".join(action.choices or ()) or action.dest.upper()
            if not action.option_strings:
                needed.append(f"{name}" if action.required else f"[{name}]")
            elif action.required:
                needed.append(f"{action.option_strings[0]} {name}")
        self.usage = " ".join([self.prog, *needed, "[options]"])

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """The options; an unknown one is an error that names the nearest."""
        # Intermixed: `pool pull POOL --from WHERE EXPERT` has arguments on both sides of an option.
        options, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            names = re.findall(r"--([a-z-]+)", self.format_help())  # dashes make all names alike
            close = difflib.get_close_matches(unknown[0].removeprefix("--").partition("=")[0], names, n=1)
            hint = f"; did you mean --{close[0]}?" if close else ""
            if (
                not close
                and unknown[0].startswith("--")
                and [self.prog, arguments[0]] == ["pituning pool", "build"]
            ):
                hint = "; other settings are given in a YAML file, with --recipe: `train: {epochs: 3}`"
            self.error(f"every argument must be one of this verb's; given: {' '.join(unknown)}{hint}")
        return options


class _Terminated(KeyboardInterrupt):
    """SIGTERM, after which the same is to be cleared away as after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0, 2 for a user's mistake, 130 after Ctrl-C, 143 after SIGTERM."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    if not _launched() or os.environ["RANK"] == "0":
        return _interruptible(given)
    if given and given[0] not in TOGETHER:
        return 0
    with (
        open(os.devnull, "w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        return _interruptible(given)


def _open_streams() -> None:
    """Let what is printed go through: to nobody where a stream is closed, escaped where it lacks a letter."""
    sys.stdout = sys.stdout or io.StringIO()
    sys.stderr = sys.stderr or io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _interruptible(given: list[str]) -> int:
    try:
        with _terminable():
            return _main(given)
    except KeyboardInterrupt as stop:
        told = "interrupted; nothing half-written was left."
        if given[:2] == ["pool", "build"]:
            told = "interrupted; what is in the pool stays, and the same command goes on from there."
        if given and given[0] in TOGETHER:
            told = (
                "interrupted; no result was written. Checkpoints, if there are any, are kept in a hidden "
                "folder beside it: add --resume to go on from the last."
            )
        print(told, file=sys.stderr)
        return 143 if isinstance(stop, _Terminated) else 130


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM stop this process as Ctrl-C does, unless a launcher started it, which counts on SIGTERM."""
    if _launched() or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _launched() -> bool:
    """Whether `torchrun` or `accelerate launch` started this process and others."""
    return os.environ.keys() >= LAUNCHED and os.environ["WORLD_SIZE"] != "1"


def _main(given: list[str]) -> int:
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
    parser = _Parser(
        prog=f"pituning {verb}",
        description=f"{module.__doc__}",
        epilog=f"example: {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    parser.finish()
    try:
        options = parser.parse(arguments)
        told = [verb, *(argument for argument in arguments if argument != "--resume")]
        options.command = shlex.join(["pituning", *told])  # as a report repeats it
    except SystemExit as stop:
        return int(stop.code or 0)
    from pituning.cli.terminal import quiet_libraries, tell_progress

    quiet_libraries()
    tell_progress()
    if not (_launched() and verb in TOGETHER):
        return _finish(module, options, lambda error: print(error, file=sys.stderr))
    from pituning.distributed import Launched

    with Launched() as group:
        return _finish(module, options, lambda error: group.speaks() and print(error, file=sys.__stderr__))


def _finish(module: Any, options: argparse.Namespace, complain: Callable[[str], object]) -> int:
    """Run the verb and print what it answers; the exit code."""
    from pituning.errors import PituningError

    document: dict[str, Any] = {}
    try:
        with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
            document, text = module.run(options)
        print(json.dumps(document, indent=1) if options.json else text)
        sys.stdout.flush()
    except PituningError as error:
        complain(f"error: {error}")
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fix = "Check the path, its permissions and the free space."
        complain(f"error: files must be readable, or writable with room; given: {error}. {fix}")
        return 2
    return int(bool(document.get("faults")) * 2)


def _usage() -> str:
    lines = ["usage: pituning VERB ... [--json] [--seed N] [--help]", ""]
    lines += ["From a folder of adapters to one better adapter, with a reason for every choice.", ""]
    lines += [f"  {verb:<8} {text}" for verb, text in VERBS.items()]
    return "\n".join([*lines, "", "`pituning VERB --help` shows a verb's options and an example."])


if __name__ == "__main__":
    sys.exit(main())
