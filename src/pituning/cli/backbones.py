"""`--backbone` and `--dtype`: which model a verb runs, and what its weights are held in."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import MappingProxyType

from pituning.backbones import Backbone, load_backbone
from pituning.backbones.loading import DTYPES
from pituning.errors import BackboneError, PoolError
from pituning.expert import Expert

NAMES = "local folder, Hub id, 'ofa-mini' or 'minilm'"


def add_backbone_options(parser: argparse.ArgumentParser, *, default: str = "", actions: str = "") -> None:
    """Both options.

    Args:
        parser: of the verb.
        default: what is taken where there is no `--backbone`; it must be given where this is empty.
        actions: of the verb, those that load a model ("build, add: "); empty for a verb without actions.
    """
    told = f"{actions}{NAMES}" + (f" (default: {default})" if default else "")
    parser.add_argument("--backbone", required=not (default or actions), help=told)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help=f"{actions}what the backbone's weights are held in (default: {DTYPES[0]}); bfloat16 takes half "
        "the memory",
    )


def given_backbone(
    options: argparse.Namespace,
    settings: Mapping[str, float] = MappingProxyType({}),
    device: str | None = None,
) -> Backbone:
    """The backbone that the command line names."""
    dtype = options.dtype or DTYPES[0]
    return load_backbone(options.backbone, dtype=dtype, device=device, settings=settings)


def given_or_known_backbone(options: argparse.Namespace, known: str | None, by: str) -> Backbone:
    """The backbone that the command line names, or else the one that `by` has; then an error tells so.

    Raises:
        PoolError: if there is neither.
    """
    if not (options.backbone or known):
        raise PoolError("the backbone must be known", f"{by} does not name it", "Pass --backbone.")
    try:
        return given_backbone(argparse.Namespace(**vars(options) | {"backbone": options.backbone or known}))
    except BackboneError as error:
        if options.backbone:
            raise
        told = f"{error.given}, as {by} names it"
        raise BackboneError(error.must, told, "Pass --backbone.") from error


def backbone_for(expert: Expert, options: argparse.Namespace) -> Backbone:
    """The backbone that the command line names, or that of the expert's card, or of PEFT's configuration.

    Raises:
        PoolError: if there is none.
    """
    known = expert.card.backbone_name or expert.config.base_model_name_or_path
    return given_or_known_backbone(options, known, f"expert {expert.name!r}")
