"""LoRAHub (Huang et al., COLM 2024): weights of experts found without gradients."""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec

from pituning.bench.contest import Contest
from pituning.bench.merging import Differences, weighted
from pituning.errors import ConfigError
from pituning.expert import Expert
from pituning.train import evaluate

# Of the authors' code: so many experts and evaluations, weights between these bounds, this much of their mean
# size added to the loss.
MOST, EVALUATIONS, BOUND, PENALTY = 20, 40, 1.5, 0.05


def require_nevergrad() -> None:
    """Raise ConfigError where the optional package is not installed."""
    if find_spec("nevergrad") is None:
        fix = "pip install 'pituning[bench]', or leave lorahub out."
        raise ConfigError("LoRAHub needs the package nevergrad", "it is not installed", fix)


def lorahub(contest: Contest) -> Expert:
    """The sum of up to 20 experts' differences from their start, times weights that lower the training loss.

    That loss is taken as all losses here are (`calibrated_losses`), not at the temperature 1.

    Raises:
        ConfigError: nevergrad is not installed.
        MixtureError: the experts are not of one initialisation.
    """
    require_nevergrad()
    import nevergrad as ng  # lazy: an extra

    experts = contest.others[:MOST]
    mixed = Differences(contest.backbone, contest.prediction.own, experts, init_seed=contest.pool.init_seed)
    mixed.model.eval()

    def loss(weights: list[float]) -> float:
        mixed.place(weighted(list(weights)))
        found = evaluate(contest.backbone, mixed.model, contest.few, contest.few.train, draw=False)
        size = PENALTY * sum(map(abs, weights)) / len(experts)
        return size - found.negative_loss if math.isfinite(found.negative_loss) else math.inf

    space = ng.p.Array(init=[0.0] * len(experts), lower=-BOUND, upper=BOUND)
    space.random_state.seed(contest.config.seed)
    with warnings.catch_warnings(action="ignore"):  # what SciPy's solvers say of NGOpt's settings
        best = ng.optimizers.NGOpt(parametrization=space, budget=EVALUATIONS).minimize(loss)
    return mixed.merged(weighted(best.value.tolist()), {"weights": best.value.tolist()})
