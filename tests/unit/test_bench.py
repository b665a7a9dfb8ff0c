"""The methods that π-Tuning is compared with, each against what is known of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from small import same_tensors
from tiny import text_task

from pituning import PiConfig, Pool, TrainConfig, TuneConfig
from pituning.backbones import Backbone
from pituning.bench import METHODS, Contest, paired_difference, summary
from pituning.bench import joint as joint_module
from pituning.bench import lorahub as lorahub_module
from pituning.bench import methods as methods_module
from pituning.bench.fusion import FusedLayer, fused
from pituning.bench.merging import Differences, by_fisher, weighted
from pituning.errors import ConfigError, ExpertError, PoolError, TrainingError
from pituning.evaluation import Evaluation
from pituning.example import Example
from pituning.expert import Expert, attach_expert, is_head
from pituning.mixing import Mixing
from pituning.neighborhood import ExactNeighborhood
from pituning.predict import FisherConfig, Neighbor, embed
from pituning.task import Task
from pituning.train import evaluate, train_expert

BRIEF = TrainConfig(epochs=1, batch_size=4, learning_rate=0.02)
CONFIG = PiConfig(k=2, shots=2, train=BRIEF, tune=TuneConfig(epochs=1, batch_size=4), start="uniform")


@pytest.fixture(scope="module", params=["adapter", "lora"])
def contest(
    request: pytest.FixtureRequest,
    backbone_of: Callable[[str], Backbone],
    tmp_path_factory: pytest.TempPathFactory,
) -> Contest:
    """The pool holds the target's own, too: under its name, and under another."""
    return made_contest(backbone_of("t5"), tmp_path_factory.mktemp("bench") / "pool", request.param)


def made_contest(backbone: Backbone, folder: Path, method: str) -> Contest:
    pool = Pool.create(folder)
    target = replace(text_task(9, train=18, validation=18), name="target", test=text_task(8, train=9).train)
    for task in (*(text_task(seed, train=9) for seed in range(3)), target, replace(target, name="renamed")):
        expert = train_expert(backbone, task, replace(BRIEF, method=method))
        pool.add(expert, embed(backbone, expert, task))
    others = [text_task(seed, train=9) for seed in range(3)]
    return Contest(backbone, target, pool, CONFIG, {task.name: task for task in others})


def test_what_is_of_the_target_in_the_pool_is_never_used(contest: Contest) -> None:
    assert {"target", "renamed"} <= set(contest.pool)
    assert {expert.name for expert in contest.others} == {"text0", "text1", "text2"}
    by_similarity = contest.prediction.similarity[contest.prediction.own.name]
    assert [expert.name for expert in contest.neighbors] == [n.name for n in contest.pi.neighbors]
    assert by_similarity[contest.others[0].name] >= by_similarity[contest.others[-1].name]


def test_where_nothing_can_be_mixed_there_is_an_own_expert_to_compare_with(contest: Contest) -> None:
    config = replace(contest.config, train=replace(contest.config.train, method="ia3"))
    alone = Contest(contest.backbone, contest.task, contest.pool, config)
    assert METHODS["expert"].make(alone).method == "IA3"
    with pytest.raises(PoolError, match="a comparison needs experts to mix with"):
        METHODS["average"].make(alone)


def test_what_others_take_of_pi_tuning_costs_no_mixture(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Contest(contest.backbone, contest.task, contest.pool, contest.config)
    monkeypatch.setattr(Mixing, "begin", None)
    for name in ("base", "expert", "average"):
        METHODS[name].make(begun)
    assert "similarity" not in vars(begun.prediction)
    assert 0 < begun.before("expert") < begun.before("neighbors")
    monkeypatch.undo()
    assert begun.before("neighbors") < begun.before("mixture") == begun.pi.after["mixture"]
    assert begun.pi.own is begun.prediction.own


@pytest.mark.parametrize("name", ["pi", "average", "average-all", "weights", "uniform"])
def test_in_delta_space_all_that_are_mixed_are_cut_to_the_rank_that_is_asked_for(
    name: str, contest: Contest
) -> None:
    if contest.prediction.own.method != "LORA":
        pytest.skip("delta space is of LoRA")
    config = replace(contest.config, space="delta", rank=2)
    made = METHODS[name].make(replace(contest, config=config))
    assert isinstance(made, Expert)
    assert {t.shape[0] for key, t in made.tensors.items() if ".lora_A." in key} == {2}


def test_a_neighbour_is_scored_under_the_targets_head(
    backbone_of: Callable[[str], Backbone], tmp_path: Path
) -> None:
    contest = made_contest(backbone_of("bert_classifier"), tmp_path / "pool", "lora")
    made = METHODS["neighbor"].make(contest)
    assert isinstance(made, Expert)
    own = contest.prediction.own
    heads = [name for name in own.tensors if is_head(name, own.config)]
    assert heads
    assert all(made.tensors[name].equal(own.tensors[name]) for name in heads)
    trained = [name for name, parameter in fused(contest).named_parameters() if parameter.requires_grad]
    assert {"query", "key", "value"} < {name.split(".")[-2] for name in trained}  # and the head's
    assert 0 <= contest.score(METHODS["fusion"].make(contest)) <= 1


def test_the_outputs_of_a_variant_of_lora_are_not_mixed(
    backbone_of: Callable[[str], Backbone], tmp_path: Path
) -> None:
    contest = made_contest(backbone_of("t5"), tmp_path / "pool", "dora")
    with pytest.raises(ExpertError, match="variant of LoRA"):
        fused(contest)


def test_what_adapts_no_layer_is_not_fused(backbone_of: Callable[[str], Backbone], tmp_path: Path) -> None:
    contest = made_contest(backbone_of("t5"), tmp_path / "pool", "prompt")
    with pytest.raises(ExpertError, match="PROMPT_TUNING adapts no layer"):
        METHODS["fusion"].make(contest)


def test_learnt_weights_leave_the_experts_as_they_are(contest: Contest) -> None:
    """What comes out lies between them, number by number."""
    made = METHODS["weights"].make(contest)
    assert isinstance(made, Expert)
    experts = [contest.prediction.own, *contest.neighbors]
    for name, value in made.tensors.items():
        rows = torch.stack([expert.tensors[name] for expert in experts])
        assert bool((value >= rows.amin(dim=0) - 1e-6).all())
        assert bool((value <= rows.amax(dim=0) + 1e-6).all())
    assert not same_tensors(made, contest.prediction.own)


@pytest.mark.parametrize("name", ["ties", "dare", "fisher", "average", "average-all"])
def test_a_merge_depends_on_the_neighbours(name: str, contest: Contest) -> None:
    made = METHODS[name].make(contest)
    others = Contest(contest.backbone, contest.task, contest.pool, contest.config, contest.sources)
    last = [Neighbor(contest.others[-1].name, 1.0)]
    vars(others)["_prediction"] = replace(contest.prediction, neighbors=last)
    vars(others)["others"] = contest.others[-1:]
    remade = METHODS[name].make(others)
    assert isinstance(made, Expert)
    assert isinstance(remade, Expert)
    assert not same_tensors(made, remade)


@pytest.mark.parametrize(
    ("diverging", "best", "tried", "taken"),
    [
        ((), 0, [0, 1, -1], 0),
        ((), 2, [0, 1, 2, 3], 2),
        ((), -2, [0, 1, -1, -2, -3], -2),
        ((), 9, [0, 1, 2, 3, 4], 4),
        ((1,), -1, [0, 1, -1, -2], -1),
        ((0,), 1, [0, 1, 2], 1),
        ((0, 1), -1, [0, 1, -1, -2], -1),
        ((0, 1, -1), 0, [0, 1, -1], None),
    ],
)
def test_rates_are_tried_while_they_validate_better(
    diverging: Sequence[int],
    best: int,
    tried: Sequence[int],
    taken: int | None,
    contest: Contest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By powers of three; one that diverges is the worst."""
    powers = []

    def train(backbone: Backbone, task: Task, config: TrainConfig) -> Expert:
        expert = train_expert(backbone, task, replace(config, epochs=0))
        if not config.epochs:  # to know the usual rate
            return expert
        assert config.learning_rate
        powers.append(round(math.log(config.learning_rate / 1e-3, 3)))
        if powers[-1] in diverging:
            raise TrainingError("the loss must stay finite", "nan", "Lower the rate.")
        return expert.renamed(f"at{powers[-1]}")

    def judge(_: Backbone, __: Task, made: dict[str, Expert]) -> dict[str, Evaluation]:
        return {name: Evaluation(-abs(int(expert.name[2:]) - best)) for name, expert in made.items()}

    monkeypatch.setattr(methods_module, "train_expert", train)
    monkeypatch.setattr(methods_module, "validated", judge)
    if taken is None:
        with pytest.raises(TrainingError, match="stay finite"):
            METHODS["lora"].make(contest)
    else:
        made = METHODS["lora"].make(contest)
        assert isinstance(made, Expert)
        assert made.name == f"at{taken}"
    assert powers == tried


@pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias")  # peft's BEFT on T5
@pytest.mark.parametrize("name", METHODS)
def test_every_method_ends_in_a_score_and_leaves_the_backbone_alone(name: str, contest: Contest) -> None:
    before = {key: value.clone() for key, value in contest.backbone.model.state_dict().items()}
    made = METHODS[name].make(contest)
    assert 0 <= contest.score(made) <= 1
    assert all(value.equal(before[key]) for key, value in contest.backbone.model.state_dict().items())


@pytest.mark.parametrize("name", ["lorahub", "dare", "fusion", "full", "average-random"])
def test_the_same_seed_makes_the_same(name: str, contest: Contest) -> None:
    losses = set()
    for _ in range(2):
        made = METHODS[name].make(contest)
        module = attach_expert(contest.backbone, made) if isinstance(made, Expert) else made
        losses.add(evaluate(contest.backbone, module, contest.few, contest.task.test).negative_loss)
    assert len(losses) == 1


def test_joint_training_gives_each_task_its_own_words_and_as_many_examples(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Example]] = []
    collate = contest.backbone.collate

    def spy(examples: Sequence[Example], task: Task, **rest: Any) -> Any:
        seen.extend((task.name, example) for example in examples)
        return collate(examples, task, **rest)

    assert contest.prediction.neighbors  # trained before the spy listens
    monkeypatch.setattr(contest.backbone, "collate", spy)
    monkeypatch.setattr(joint_module, "MOST", 6)
    METHODS["joint"].make(contest)
    trained = [(name, e) for name, e in seen if name != "target" or e in contest.few.train]
    counts = Counter(name for name, _ in trained)
    assert counts.keys() == {"target", *(expert.name for expert in contest.neighbors)}
    for name, example in trained:
        mine = contest.few if name == "target" else contest.sources[name]
        assert example in mine.train
    assert counts["target"] >= max(counts.values()) - 4  # a batch may begin another pass


def test_joint_training_takes_the_data_of_two_neighbours_of_one_task_once(
    backbone_of: Callable[[str], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest = made_contest(backbone_of("t5"), tmp_path / "pool", "adapter")
    for name in ("text1", "text2"):
        contest.pool.remove(name)
    again = contest.pool.get("text0").renamed("again")
    contest.pool.add(again, embed(contest.backbone, again, contest.sources["text0"]))
    sizes: list[tuple[int, int]] = []
    fit = joint_module.fit

    def spy(module: Any, groups: Any, nll: Any, validate: Any, examples: Any, config: Any) -> Any:
        def told(batch: Sequence[Example]) -> torch.Tensor:
            losses: torch.Tensor = nll(batch)
            sizes.append((len(losses), len(batch)))
            return losses

        return fit(module, groups, told, validate, examples, config)

    monkeypatch.setattr(joint_module, "fit", spy)
    assert {expert.name for expert in contest.neighbors} == {"again", "text0"}
    METHODS["joint"].make(contest)
    assert sizes
    assert all(losses == batch for losses, batch in sizes)


def test_joint_training_needs_the_neighbours_data(contest: Contest) -> None:
    with pytest.raises(ConfigError, match="this method needs the data that the neighbours were trained on"):
        METHODS["joint"].make(replace(contest, sources={}))
    with pytest.raises(ConfigError, match="this method needs the data that the neighbours were trained on"):
        METHODS["fisher"].make(replace(contest, sources={}))


def test_a_pool_that_is_embedded_at_its_experts_is_averaged_without_their_data(
    backbone_of: Callable[[str], Backbone], tmp_path: Path
) -> None:
    contest = made_contest(backbone_of("t5"), tmp_path / "pool", "adapter")
    config = replace(CONFIG, k=3, start="uniform")  # all are neighbours, wherever they are embedded
    at_experts = FisherConfig(at="expert")
    with_data = METHODS["fisher"].make(replace(contest, config=config))
    for task in contest.sources.values():
        expert = contest.pool.get(task.name)
        contest.pool.add_embedding(task.name, embed(contest.backbone, expert, task, at_experts))
    without = replace(contest, sources={}, config=replace(config, fisher=at_experts))
    made = METHODS["fisher"].make(without)
    assert isinstance(with_data, Expert)
    assert isinstance(made, Expert)
    for name, value in made.tensors.items():
        torch.testing.assert_close(value, with_data.tensors[name])


def test_all_the_weight_on_one_expert_is_that_expert(contest: Contest) -> None:
    experts = [contest.prediction.own, *contest.neighbors]
    rows = Differences(contest.backbone, contest.prediction.own, experts, init_seed=contest.pool.init_seed)
    for place, expert in enumerate(experts):
        alone = rows.merged(weighted([float(place == other) for other in range(3)]), {})
        for name, value in expert.tensors.items():
            torch.testing.assert_close(alone.tensors[name], value, rtol=0, atol=1e-7)
    start = rows.merged(weighted([0.0] * 3), {})
    own = contest.prediction.own
    untrained = train_expert(contest.backbone, contest.few, replace(BRIEF, epochs=0), like=own)
    assert same_tensors(start, untrained)


def test_equal_information_gives_the_mean_and_all_of_it_gives_the_one() -> None:
    rows = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, -4.0])]
    same = by_fisher([{"a": torch.tensor([2.0, 0.0])}] * 2)
    torch.testing.assert_close(same("a", rows), torch.tensor([2.0, -1.0]))
    one = by_fisher([{"a": torch.tensor([1.0, 0.0])}, {"a": torch.tensor([0.0, 9.0])}])
    torch.testing.assert_close(one("a", rows), torch.tensor([1.0, -4.0]))


def test_fused_outputs_of_one_expert_several_times_are_that_experts(contest: Contest) -> None:
    own = contest.prediction.own
    twins = Contest(contest.backbone, contest.task, contest.pool, contest.config)
    neighbors = [Neighbor("one", 1.0), Neighbor("two", 1.0)]
    around = ExactNeighborhood({name: own.renamed(name) for name in ("one", "two")}, {})
    vars(twins)["_prediction"] = replace(contest.prediction, neighbors=neighbors, around=around)
    vars(twins)["others"] = [*around.experts.values()]
    module, plain = fused(twins), attach_expert(contest.backbone, own)
    assert sum(isinstance(layer, FusedLayer) for layer in module.modules()) > 2
    batch = contest.backbone.collate(contest.few.train, contest.few)
    with torch.no_grad():
        torch.testing.assert_close(
            contest.backbone.nll(module, batch), contest.backbone.nll(plain, batch), rtol=1e-5, atol=1e-5
        )
    trained = {
        name.rpartition(".")[0].rpartition(".")[2] for name, p in module.named_parameters() if p.requires_grad
    }
    assert trained == {"query", "key", "value"}


def test_lorahub_finds_weights_that_lower_the_training_loss(contest: Contest) -> None:
    made = METHODS["lorahub"].make(contest)
    assert isinstance(made, Expert)
    found = made.card.recipe["weights"]
    assert len(found) == 3
    assert max(map(abs, found)) <= lorahub_module.BOUND

    def loss(weights: list[float]) -> float:
        own, seed = contest.prediction.own, contest.pool.init_seed
        rows = Differences(contest.backbone, own, contest.others, init_seed=seed)
        rows.place(weighted(weights))
        return -evaluate(contest.backbone, rows.model, contest.few, contest.few.train).negative_loss

    assert loss(found) <= loss([0.0] * 3)


def test_the_interval_is_the_bootstraps() -> None:
    rng = np.random.default_rng(1)
    one = {(f"t{task}", 0): float(value) for task, value in enumerate(rng.normal(0.05, 0.1, size=20))}
    zero = dict.fromkeys(one, 0.0)
    found = paired_difference(one, zero)
    values = np.array(list(one.values()))
    assert found.low is not None
    assert found.high is not None
    there = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(there.confidence_interval.low, abs=3e-3)
    assert found.high == pytest.approx(there.confidence_interval.high, abs=3e-3)
    assert (found.better, found.worse, found.tasks) == ((values > 0).sum(), (values < 0).sum(), 20)


def test_what_cancels_out_is_neither_better_nor_worse() -> None:
    gains = {("a", 0): 0.1, ("a", 1): 0.2, ("a", 2): -0.3, ("b", 0): 1.0}
    assert sum(list(gains.values())[:3]) != 0  # in floating point
    found = paired_difference(gains, dict.fromkeys(gains, 0.0))
    assert (found.better, found.worse, found.tasks) == (1, 0, 2)


def test_differences_are_paired_by_task_and_seed_and_every_task_counts_the_same() -> None:
    one = {("a", 0): 1.0, ("a", 1): 1.0, ("a", 2): 1.0, ("b", 0): 0.0, ("c", 0): 9.0}
    other = {("a", 0): 0.0, ("a", 1): 0.0, ("a", 2): 0.0, ("b", 0): 0.5}
    found = paired_difference(one, other)
    assert (found.mean, found.tasks, found.better, found.worse) == (0.25, 2, 1, 1)
    assert (found.low, found.high) == (None, None)  # of two tasks
    with pytest.raises(ValueError, match="in common"):
        paired_difference(one, {("d", 0): 1.0})


def test_a_summary_counts_tasks_not_runs_and_all_seconds_and_says_what_was_refused() -> None:
    def run(
        task: str, seed: int, method: str, score: float, seconds: float, metric: str = "accuracy"
    ) -> dict:
        named = {"task": task, "seed": seed, "method": method, "metric": metric}
        return named | {"score": score, "seconds": seconds, "before": 10.0 if method == "pi" else 0.0}

    runs = [
        run("a", seed, method, value, 4.0)
        for seed in (0, 1)
        for method, value in (("expert", 0.5), ("pi", 0.75))
    ]
    runs += [run("c", 0, "expert", 5.0, 1.0, "cider_d"), run("c", 0, "pi", 2.5, 6.0, "cider_d")]  # of 10
    runs += [{"task": "a", "seed": 0, "method": "ties", "metric": "accuracy", "refused": "no"}]
    found = summary(runs)
    assert found["pi"]["mean"] == (0.75 + 0.25) / 2
    assert found["pi"]["difference"]["mean"] == (0.25 - 0.25) / 2
    assert (found["pi"]["seconds"], found["pi"]["runs"]) == (14.0, 3)
    assert found["ties"] == {"runs": 0, "refused": ["no"]}
    assert "difference" not in found["expert"]
    assert summary(runs, "pi")["expert"]["difference"]["mean"] == 0.0
