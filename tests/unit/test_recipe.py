"""Laws of the recipe: what may choose, what may not, and what is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations
from math import exp, log
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from small import same_tensors
from tiny import open_task, task_for, text_task

from pituning import PiConfig, Pool, TrainConfig, TuneConfig, pi_tune, selection
from pituning import mixing as mixing_module
from pituning import prediction as prediction_module
from pituning import recipe as recipe_module
from pituning.backbones import Backbone
from pituning.building import obstacles
from pituning.card import UNKNOWN, ExpertCard
from pituning.errors import ExpertError, PoolError, StaleEmbeddingError, TrainingError
from pituning.evaluation import Evaluation
from pituning.expert import Expert, attach_expert
from pituning.interpolate import Mixture, TuneResult, tune
from pituning.interpolate.compatible import obstacle
from pituning.interpolate.delta import lora_factors
from pituning.methods import peft_config
from pituning.mixing import Mixing, is_scarce, turned
from pituning.neighborhood import ExactNeighborhood, neighborhood_of
from pituning.predict import FisherConfig, embed
from pituning.predict.delta import shared_modules
from pituning.selection import Lead, gives_way, validated
from pituning.task import Task
from pituning.train import calibrated_losses, evaluate, score, train_expert

BRIEF = TrainConfig(epochs=1, batch_size=4, learning_rate=0.02)
CONFIG = PiConfig(k=2, shots=2, train=BRIEF, tune=TuneConfig(epochs=1, batch_size=4))


@pytest.fixture(scope="module")
def backbone(backbone_of: Callable[[str], Backbone]) -> Backbone:
    return backbone_of("bert")


@pytest.fixture(scope="module")
def target() -> Task:
    task = text_task(9, train=18, validation=18)
    return replace(task, name="target", test=text_task(8, train=9).train)


def add(pool: Pool, backbone: Backbone, task: Task, config: TrainConfig = BRIEF) -> Expert:
    expert = train_expert(backbone, task, config)
    pool.add(expert, embed(backbone, expert, task))
    return expert


@pytest.fixture(scope="module")
def pool(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    pool = Pool.create(tmp_path_factory.mktemp("recipe") / "pool")
    for seed in range(3):
        add(pool, backbone, text_task(seed, train=9))
    return pool


def only(best: str) -> Callable[..., dict[str, Evaluation]]:
    """A validation that one expert passes best."""
    return lambda _, __, experts, **___: {
        n: Evaluation(float(n == best), each=(float(n == best),)) for n in experts
    }


def test_the_best_expert_and_its_reasons_come_out(
    backbone: Backbone, target: Task, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "SURE", 1e9)  # one half of the examples never decides alone
    config = replace(CONFIG, k=3, start="uniform")
    result = pi_tune(backbone, target, pool, config)
    assert set(result.scores) == {"base", "expert", "neighbor", "init", "pi"}
    assert len(result.neighbors) == 3
    assert set(result.weights) == {"target:target", *(neighbor.name for neighbor in result.neighbors)}
    assert sum(result.weights.values()) == pytest.approx(1)
    few = replace(target.sample(2, CONFIG.seed), test=())
    again = pi_tune(backbone, turned(few), pool, replace(config, shots=None))
    leads = [torch.tensor([])]
    for half, made in ((few, result), (turned(few), again)):
        own, mixture = (
            evaluate(backbone, attach_expert(backbone, expert), target, half.validation)
            for expert in (made.own, made.mixture)
        )
        leads.append(torch.tensor(mixture.each) - torch.tensor(own.each))
    lead = torch.cat(leads)
    assert result.lead
    assert result.lead.mean == pytest.approx(float(lead.mean()), abs=1e-5)
    assert result.lead.error == pytest.approx(float(lead.std()) / len(lead) ** 0.5, abs=1e-5)
    assert result.kept == ("expert" if result.lead.mean < -result.lead.error else "mixture")
    assert result.expert.name == "target"


def test_the_best_neighbor_is_scored_as_it_is(backbone: Backbone, target: Task, pool: Pool) -> None:
    result = pi_tune(backbone, target, pool, CONFIG)
    few = target.sample(2, CONFIG.seed)
    alone = {n.name: attach_expert(backbone, pool.get(n.name)) for n in result.neighbors}
    labelled = (*few.validation, *few.train)  # a neighbour has seen neither
    losses = {
        name: evaluate(backbone, model, target, labelled).negative_loss for name, model in alone.items()
    }
    assert result.best_neighbor == max(losses, key=lambda name: losses[name])
    expected = score(backbone, attach_expert(backbone, pool.get(result.best_neighbor)), target)
    assert result.scores["neighbor"] == pytest.approx(expected)


def test_a_rank_cuts_no_neighbor_that_is_scored_as_it_is(
    backbone: Backbone, target: Task, pool: Pool
) -> None:
    own, other = pool.get("text0").renamed("own"), pool.get("text1")
    mixing = Mixing(backbone, own, {"text1": other}, replace(CONFIG, space="delta", rank=1))
    alone, whole = (lora_factors(backbone, one, one) for one in (mixing.alone("text1"), other))
    for module, (a, b) in whole.items():
        torch.testing.assert_close(alone[module][1] @ alone[module][0], b @ a)


def test_the_result_holds_what_a_report_shows(backbone: Backbone, target: Task, pool: Pool) -> None:
    result = pi_tune(backbone, target, pool, CONFIG)
    assert set(result.similarity) == {"target:target", *pool}
    for neighbor in result.neighbors:
        for one, two in permutations(("target:target", neighbor.name)):
            assert result.similarity[one][two] == pytest.approx(neighbor.similarity)
    assert [entry["epoch"] for entry in result.own.card.history] == [1]
    assert [entry["epoch"] for entry in result.history] == [1]
    groups = list(result.weights_by_group.values())
    assert len(groups) > 1
    for name, mean in result.weights.items():
        assert sum(weights[name] for weights in groups) / len(groups) == pytest.approx(mean)


def test_neither_test_labels_nor_undrawn_validation_examples_choose_anything(
    backbone: Backbone, target: Task, pool: Pool
) -> None:
    drawn = set(target.sample(2, 0).validation)

    def other(task: Task, label: str) -> str:
        return task.candidates[(task.candidates.index(label) + 1) % len(task.candidates)]

    test = tuple(replace(e, label=other(target, str(e.label))) for e in target.test)
    kept = tuple(e for e in target.validation if e in drawn)
    first, second = (
        pi_tune(backbone, task, pool, CONFIG)
        for task in (target, replace(target, test=test, validation=kept))
    )
    assert same_tensors(first.expert, second.expert)
    assert (first.neighbors, first.kept, first.validation) == (
        second.neighbors,
        second.kept,
        second.validation,
    )
    assert first.scores != second.scores


@pytest.mark.parametrize("errors", [0.9, -0.9, -1.1])
def test_the_own_expert_is_kept_where_the_mixture_is_behind_by_more_than_an_error(
    errors: float, backbone: Backbone, target: Task, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = torch.tensor([-1.0, 0.0, 1.0, 2.0, -2.0])
    twice = torch.cat([spread, spread])  # few examples: training and validation change places
    ahead = spread + errors * twice.std() / 10**0.5

    def found(_: Backbone, __: Task, experts: Mapping[str, Expert], **___: Any) -> dict[str, Evaluation]:
        each = {name: tuple(ahead.tolist()) if name == "mixture" else (0.0,) * 5 for name in experts}
        return {name: Evaluation(sum(each[name]) / 5, each=each[name]) for name in experts}

    monkeypatch.setattr(mixing_module, "validated", found)
    result = pi_tune(backbone, target, pool, replace(CONFIG, start="uniform"))
    assert result.kept == ("expert" if errors < -1 else "mixture")
    assert same_tensors(result.expert, result.mixture) == (result.kept == "mixture")


@pytest.mark.parametrize("best", ["text1", ""])
def test_the_mixture_starts_where_it_validates_best(
    best: str, backbone: Backbone, target: Task, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, bool]] = []

    def trial(mixing: Mixing, _: Any, begin: str, task: Task, __: bool) -> Evaluation:
        fold = set(task.train) == set(few.train)
        tried.append((begin, fold))
        assert (mixing.own.card.recipe["epochs"] == 0) is not fold  # what has seen them is not judged on them
        merit = {best: 1.0, "text0": 2.0 if fold else -2.0}.get(begin, 0.0)  # text0: in the first fold alone
        return Evaluation(merit, each=(merit,))

    few = target.sample(2, CONFIG.seed)
    monkeypatch.setattr(Mixing, "tried", trial)
    monkeypatch.setattr(mixing_module, "validated", only("text2"))  # the best as it is
    config = replace(CONFIG, k=3, tune=TuneConfig(epochs=0))
    result = pi_tune(backbone, target, pool, config)
    assert result.start == best
    first, second = ([begin for begin, one in tried if one is fold] for fold in (True, False))
    assert sorted(first) == ["", "text0", "text1", "text2"]
    assert second[:2] == ["text0", best]
    assert "text2" in second
    assert len(second) == 3 + (second[3:] == ["text2"])
    others = 0.25 if best == "" else 0.1 / 3
    expected = {name: 0.9 if name == best else others for name in result.weights}
    assert result.weights == pytest.approx(expected)
    equal = pi_tune(backbone, target, pool, replace(config, start="uniform"))
    assert (equal.start, set(equal.weights.values())) == ("", {0.25})


def test_of_starts_that_both_trials_leave_level_the_best_as_it_is_is_taken(
    backbone: Backbone, target: Task, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Expert] = []

    def found(_: Backbone, __: Task, experts: Mapping[str, Expert], **___: Any) -> dict[str, Evaluation]:
        seen.extend(expert for name, expert in experts.items() if name == "")
        return only("text2")(None, None, experts)

    monkeypatch.setattr(Mixing, "tried", lambda *_: Evaluation(0.0, each=(0.0,)))
    monkeypatch.setattr(mixing_module, "validated", found)
    result = pi_tune(backbone, target, pool, replace(CONFIG, k=3, tune=TuneConfig(epochs=0)))
    assert result.start == "text2"
    assert len(seen) == 1  # equal weights as they are hold an own expert that has seen no example
    trained = pi_tune(
        backbone, target, pool, replace(CONFIG, k=3, tune=TuneConfig(epochs=0), start="uniform")
    )
    assert not same_tensors(seen[0], trained.mixture)


@pytest.mark.parametrize("glance", [2, 20, 99])
def test_as_they_are_experts_are_judged_on_few_examples_that_they_have_not_seen(
    glance: int, backbone: Backbone, target: Task, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def found(_: Backbone, task: Task, experts: Mapping[str, Expert]) -> dict[str, Evaluation]:
        seen.append(len(task.validation))
        assert set(task.validation) <= {*target.validation, *target.train}
        return {name: Evaluation(0.0) for name in experts}

    monkeypatch.setattr(mixing_module, "validated", found)
    monkeypatch.setattr(mixing_module, "GLANCE", glance)
    mixing = Mixing(backbone, pool.get("text0").renamed("own"), {"text1": pool.get("text1")}, CONFIG)
    assert mixing.as_they_are(["text1"], target).keys() == {"text1"}
    assert seen == [min(glance, len(target.validation) + len(target.train))]


@pytest.mark.parametrize(
    ("told", "given", "rate"),
    [(0.02, None, 0.01), (None, None, 5e-4), ("fast", None, 5e-4), (0.02, 0.3, 0.3)],
)
def test_experts_are_mixed_at_half_the_rate_of_the_targets_own(
    told: Any,
    given: float | None,
    rate: float,
    backbone: Backbone,
    target: Task,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A card that tells none stands for the method's usual one: LoRA's is 1e-3."""
    seen: list[float] = []
    grouped = Mixture.parameter_groups

    def spy(mixture: Mixture, *, experts: float, weights: float) -> list[dict[str, Any]]:
        seen.append(experts)
        return grouped(mixture, experts=experts, weights=weights)

    own, other = pool.get("text0"), pool.get("text1")
    own = Expert(replace(own.card, recipe=own.card.recipe | {"learning_rate": told}), own.config, own.tensors)
    monkeypatch.setattr(Mixture, "parameter_groups", spy)
    mixture = Mixture(backbone, [own, other], target="text0")
    tune(mixture, target, TuneConfig(epochs=1, learning_rate=given))
    assert seen == [rate]


def test_starts_are_tried_briefly_and_on_few_examples(
    backbone: Backbone, target: Task, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int, float]] = []

    def spy(mixture: Mixture, task: Task, config: TuneConfig, **rest: Any) -> TuneResult:
        first = max(mixture.mean_weights().values())
        seen.append((len(task.train), len(task.validation), config.epochs, round(first, 2)))
        return tune(mixture, task, config, **rest)

    for module in (recipe_module, mixing_module):
        monkeypatch.setattr(module, "tune", spy)
    monkeypatch.setattr(mixing_module, "TRIAL_EXAMPLES", 3)
    monkeypatch.setattr(selection, "SURE", 1e9)
    result = pi_tune(backbone, target, pool, replace(CONFIG, k=1, tune=TuneConfig(epochs=3, batch_size=4)))
    first, again, whole = seen[:2], seen[2:-2], seen[-2:]
    assert first == [(3, 3, 2, 0.5), (3, 3, 2, 0.9)]
    assert sorted(again) == first
    assert whole == [(6, 6, 3, 0.9 if result.start else 0.5)] * 2


@pytest.mark.parametrize(
    ("where", "name", "value", "start"),
    [(mixing_module, "ENOUGH", 6, "best"), (selection, "SURE", -1, "uniform")],
)
def test_many_validation_examples_or_a_sure_lead_are_enough(
    where: Any,
    name: str,
    value: int,
    start: Any,
    backbone: Backbone,
    target: Task,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Task] = []

    def spy(mixture: Mixture, task: Task, config: TuneConfig, **rest: Any) -> TuneResult:
        seen.append(task)
        return tune(mixture, task, config, **rest)

    for module in (recipe_module, mixing_module):
        monkeypatch.setattr(module, "tune", spy)
    monkeypatch.setattr(where, name, value)
    result = pi_tune(backbone, target, pool, replace(CONFIG, start=start))
    few = target.sample(2, CONFIG.seed)
    assert len(few.validation) == 6
    assert all(set(task.train) <= set(few.train) for task in seen)
    assert result.lead
    assert result.lead.examples == 6
    own = evaluate(backbone, attach_expert(backbone, result.own), target, few.validation)
    assert result.validation["expert"]["negative_loss"] == pytest.approx(own.negative_loss)


def test_a_run_with_another_start_is_not_gone_on_with(
    backbone: Backbone, target: Task, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = only("text1")
    monkeypatch.setattr(mixing_module, "validated", found)
    pi_tune(backbone, target, pool, replace(CONFIG, k=3), workdir=tmp_path)
    again = replace(CONFIG, k=3, start="uniform")
    with pytest.raises(TrainingError, match="is of another run"):
        pi_tune(backbone, target, pool, again, workdir=tmp_path, resume=True)


def test_a_resumed_run_goes_on_from_the_start_it_chose(
    backbone: Backbone, target: Task, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pi_tune(backbone, target, pool, CONFIG, workdir=tmp_path)
    monkeypatch.setattr(Mixing, "begin", lambda *_, **__: pytest.fail("the starts are tried again"))
    again = pi_tune(backbone, target, pool, CONFIG, workdir=tmp_path, resume=True)
    assert again.start == whole.start
    assert same_tensors(again.expert, whole.expert)
    (tmp_path / "start.json").write_text('{"key": "')
    with pytest.raises(pytest.fail.Exception):
        pi_tune(backbone, target, pool, CONFIG, workdir=tmp_path, resume=True)


def test_a_start_from_which_the_loss_diverges_is_none(
    backbone: Backbone, target: Task, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(mixture: Mixture, task: Task, config: TuneConfig, **rest: Any) -> TuneResult:
        if mixture.mean_weights().get("text1", 0) > 0.5:
            raise TrainingError("the loss must stay finite", "nan", "Lower the learning rate.")
        return tune(mixture, task, config, **rest)

    for module in (recipe_module, mixing_module):
        monkeypatch.setattr(module, "tune", diverging)
    assert pi_tune(backbone, target, pool, CONFIG).start != "text1"


@pytest.mark.parametrize(
    ("kind", "at", "learns"),
    [("bert", "start", False), ("bert", "expert", True), ("bert_classifier", "start", True)],
)
def test_what_embeds_a_task_is_trained_for_it_where_that_counts(
    kind: str,
    at: Any,
    learns: bool,
    backbone_of: Callable[[str], Backbone],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An own expert that is best untrained does at the untrained adapter, but not under an untrained head."""
    trained: list[Expert] = []
    embedded: list[Expert] = []

    def best_untrained(*given: Any, **options: Any) -> Expert:
        epochs = given[2].epochs if options.get("may_keep_start") is False else 0
        trained.append(train_expert(given[0], given[1], replace(given[2], epochs=epochs), **options))
        return trained[-1]

    def spy(model: Backbone, expert: Expert, *rest: Any, **options: Any) -> Any:
        embedded.append(expert)
        return embed(model, expert, *rest, **options)

    monkeypatch.setattr(prediction_module, "train_expert", best_untrained)
    monkeypatch.setattr(prediction_module, "embed", spy)
    config = replace(CONFIG, train=replace(BRIEF, epochs=7), fisher=FisherConfig(at=at))
    result = pi_tune(backbone_of(kind), task_for(kind), Pool.create(tmp_path / "none"), config)
    _, own, *learnt_too = trained  # the first shows whether it could be mixed at all
    learnt = learnt_too[0] if learns else own
    assert result.own is own
    assert embedded == [learnt]
    assert learnt.card.recipe["epochs"] == learnt.card.recipe["best_epoch"] == int(learns)


@pytest.mark.parametrize(("start", "tried"), [("best", 3), ("uniform", 0)])
def test_the_k_nearest_are_tried_and_mixed(
    start: Literal["best", "uniform"],
    tried: int,
    backbone: Backbone,
    target: Task,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def trial(_: Mixing, __: Any, begin: str, *___: Any) -> Evaluation:
        seen.append(begin)
        return Evaluation(0.0, each=(0.0,))

    nearest = pi_tune(backbone, target, pool, replace(CONFIG, k=3, start="uniform")).neighbors[:2]
    monkeypatch.setattr(Mixing, "tried", trial)
    monkeypatch.setattr(mixing_module, "ENOUGH", 0)
    result = pi_tune(backbone, target, pool, replace(CONFIG, k=2, start=start))
    assert result.neighbors == nearest
    assert seen == ["", *(neighbor.name for neighbor in nearest)][:tried]


def test_the_loss_is_that_at_the_best_temperature_of_one_and_more() -> None:
    torch.manual_seed(0)
    gold = torch.randint(3, (40,))
    right = torch.nn.functional.one_hot(gold, 3).float()
    noisy = (right + torch.randn(40, 3)) * 30

    def at(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(noisy / temperature, gold))

    def calibrated(likelihoods: torch.Tensor) -> float:
        losses = calibrated_losses(likelihoods, gold)
        assert losses.shape == (40,)
        return float(losses.mean())

    best = minimize_scalar(lambda log: at(exp(log)), bounds=(0, 10), method="bounded").fun
    assert best <= calibrated(noisy) < best + 2e-3 < at(1) / 5
    assert calibrated(noisy / 100) == pytest.approx(at(100))  # not sure enough: as it is
    assert calibrated(-right * 50) == pytest.approx(log(3), abs=1e-4)  # always wrong


def test_answers_are_judged_by_the_loss_and_boxes_by_how_they_overlap() -> None:
    sure, right = Evaluation(-1.0, 0.4), Evaluation(-2.0, 0.6)
    assert sure.merit > right.merit
    assert replace(right, overlap=0.6).merit > replace(sure, overlap=0.4).merit
    assert replace(sure, overlap=0.4).merit > replace(sure, overlap=0.4, negative_loss=-1.1).merit
    assert Evaluation(float("nan")).merit < right.merit


def test_a_loss_that_is_not_finite_has_no_lead() -> None:
    right, wrong = Evaluation(-1.0, each=(-1.0, -1.0)), Evaluation(float("nan"), each=(float("nan"), -0.1))
    assert not Lead.of(right, wrong).behind
    assert Lead.of(wrong, right).behind
    assert not Lead.of(right, right).behind
    assert Lead.of(Evaluation(-2.0, each=(-2.0, -2.0)), right).behind


def test_a_mixture_that_writes_worse_is_not_kept_for_its_loss() -> None:
    good, bad, ahead = Evaluation(-2.0, 0.6), Evaluation(-1.0, 0.5), Lead(1.0, 0.1, 16)
    assert gives_way(ahead, mixture=bad, expert=good, writes=True)
    assert not gives_way(ahead, mixture=good, expert=bad, writes=True)
    assert not gives_way(ahead, mixture=good, expert=good, writes=True)
    assert not gives_way(ahead, mixture=bad, expert=good, writes=False)
    assert gives_way(Lead(-0.2, 0.1, 16), mixture=good, expert=good, writes=False)


def test_the_score_of_free_answers_is_taken_where_it_decides(
    backbone_of: Callable[[str], Backbone], target: Task, backbone: Backbone, pool: Pool
) -> None:
    task, t5 = open_task(), backbone_of("t5")
    task = replace(task, validation=task.train)
    own = {"expert": train_expert(t5, task, replace(BRIEF, method="lora"))}
    found = validated(t5, task, own)
    assert found["expert"].score is None
    expected = score(t5, attach_expert(t5, own["expert"]), task, "validation")
    scored = validated(t5, task, own, written=True)
    assert scored["expert"] == replace(found["expert"], score=expected)
    chosen = validated(backbone, target, {"expert": pool.get("text0")})
    assert validated(backbone, target, {"expert": pool.get("text0")}, written=True) == chosen


def test_a_single_example_tells_nothing() -> None:
    lead = Lead.of(Evaluation(-1.0, each=(-1.0,)), Evaluation(-2.0, each=(-2.0,)))
    assert (lead.mean, lead.examples, lead.behind, lead.sure) == (1.0, 1, False, False)


def test_training_and_validation_change_places_only_where_they_are_about_as_many(target: Task) -> None:
    few = target.sample(2, 0)
    assert is_scarce(few)
    assert is_scarce(replace(few, train=few.train * 2))
    assert not is_scarce(replace(few, train=few.train * 2 + few.train[:1]))
    assert not is_scarce(replace(few, validation=few.validation * 11, train=few.train * 11))
    assert not is_scarce(replace(few, validation=()))


def test_where_the_second_look_diverges_the_first_decides(
    backbone: Backbone, target: Task, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = target.sample(2, CONFIG.seed)

    def diverging(mixture: Mixture, task: Task, config: TuneConfig, **rest: Any) -> TuneResult:
        if set(task.train) == set(few.validation):
            raise TrainingError("the loss must stay finite", "nan", "Lower the learning rate.")
        return tune(mixture, task, config, **rest)

    monkeypatch.setattr(selection, "SURE", 1e9)
    for module in (recipe_module, mixing_module):
        monkeypatch.setattr(module, "tune", diverging)
    result = pi_tune(backbone, target, pool, CONFIG)
    assert result.lead
    assert result.lead.examples == len(few.validation)


def test_a_neighbour_under_a_trained_head_is_not_judged_on_training_examples(
    backbone: Backbone, backbone_of: Callable[[str], Backbone], target: Task, pool: Pool
) -> None:
    few, own = target.sample(2, 0), pool.get("text0")
    with_head = Mixing(backbone_of("bert_classifier"), own, {}, CONFIG).unseen(few)
    assert set(with_head.validation) == set(few.validation)
    without = Mixing(backbone, own, {}, CONFIG).unseen(few)
    assert set(without.validation) == {*few.validation, *few.train}


def test_without_validation_examples_the_mixture_is_kept_and_nothing_is_claimed(
    backbone: Backbone, pool: Pool
) -> None:
    task = replace(text_task(9, train=6), name="bare")
    result = pi_tune(backbone, task, pool, replace(CONFIG, shots=None))
    assert (result.kept, result.validation, result.scores) == ("mixture", {}, {})


def test_experts_of_the_targets_name_or_data_are_no_neighbours(
    backbone: Backbone, target: Task, pool: Pool, tmp_path: Path
) -> None:
    own = Pool.create(tmp_path / "pool")
    for name in pool:
        own.add(pool.get(name), pool.embedding(name))
    add(own, backbone, target)
    add(own, backbone, replace(target, name="renamed"))
    result = pi_tune(backbone, target, own, replace(CONFIG, k=9))
    assert {neighbor.name for neighbor in result.neighbors} == set(pool)


def test_experts_that_cannot_be_mixed_are_refused_with_the_reason(
    backbone: Backbone, target: Task, pool: Pool, tmp_path: Path
) -> None:
    mixed = Pool.create(tmp_path / "pool")
    for name in pool:
        mixed.add(pool.get(name), pool.embedding(name))
    add(mixed, backbone, replace(text_task(5), name="ia3"), replace(BRIEF, method="ia3"))
    add(mixed, backbone, replace(text_task(6), name="other_seed"), replace(BRIEF, init_seed=7))
    mixed.add(train_expert(backbone, text_task(7), BRIEF, name="bare"))
    add(mixed, backbone, target, replace(BRIEF, method="ia3"))  # the target's own would be none anyway
    refused = pi_tune(backbone, target, mixed, CONFIG).refused
    assert refused.keys() == {"ia3", "other_seed", "bare"}
    assert "is IA3" in refused["ia3"]
    assert "another initialisation" in refused["other_seed"]
    assert "no embedding" in refused["bare"]


def test_delta_space_mixes_experts_of_other_ranks_and_initialisations(
    backbone: Backbone, target: Task, pool: Pool, tmp_path: Path
) -> None:
    wider = Pool.create(tmp_path / "pool")
    config = peft_config("lora", backbone.model)
    config.r, config.lora_alpha = 3, 9
    config.save_pretrained(str(tmp_path / "method"))
    file = str(tmp_path / "method" / "adapter_config.json")
    add(wider, backbone, replace(text_task(1), name="wide"), replace(BRIEF, method=file, init_seed=4))
    for name in list(pool)[:2]:
        wider.add(pool.get(name), pool.embedding(name))
    mine, theirs = shared_modules(pool.embedding("text0"), wider.embedding("wide"))
    assert mine.components.keys() == theirs.components.keys() == pool.embedding("text0").components.keys()
    result = pi_tune(backbone, target, wider, replace(CONFIG, k=3, space="delta"))
    assert "wide" in {neighbor.name for neighbor in result.neighbors}
    own = result.similarity["target:target"]
    alike = {"target:target": 1.0, **{n.name: n.similarity for n in result.neighbors}}
    assert own == pytest.approx(alike, abs=1e-6)
    assert 0 < result.similarity["text0"]["wide"] == result.similarity["wide"]["text0"] < 1
    assert not result.refused
    assert result.mixture.config.r == 8 + 3 + 8 + 8
    narrow = pi_tune(backbone, target, wider, replace(CONFIG, k=3, space="delta", rank=2)).mixture
    assert narrow.config.r == 2
    assert 0 < narrow.card.recipe["relative_error"] < 1


def test_in_delta_space_one_that_learns_elsewhere_is_refused_and_the_others_compared(pool: Pool) -> None:
    """Such as an expert of the vision tower alone, beside a target of texts that adapts both."""
    one, two, target = (pool.embedding(f"text{seed}") for seed in (0, 1, 2))
    first = next(name for name, tensor in target.components.items() if tensor.any())
    here, there = dict(one.components), dict(target.components)
    for name in here:
        (there if name == first else here)[name] = torch.zeros_like(here[name])
    around = ExactNeighborhood(
        {name: pool.get(name) for name in ("text0", "text1")},
        {"text0": replace(one, components=here), "text1": two},
    )
    own, embedding = pool.get("text2"), replace(target, components=there)
    refused = around.refusals(own, embedding, "delta")
    assert refused.keys() == {"text0"}
    assert "both learn something in" in refused["text0"]
    assert [n.name for n in around.nearest(embedding, 3, space="delta", without=refused)] == ["text1"]


def test_a_stale_embedding_is_found_before_anything_is_trained(
    backbone: Backbone, target: Task, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = Pool.create(tmp_path / "pool")
    for name in pool:
        stale.add(pool.get(name), pool.embedding(name))
    wrong = pool.embedding("text1")
    monkeypatch.setattr(type(wrong), "check_fresh", lambda *_, **__: None)
    stale.add_embedding("text0", wrong)
    monkeypatch.undo()
    monkeypatch.setattr(prediction_module, "train_expert", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(StaleEmbeddingError, match="text0"):
        pi_tune(backbone, target, stale, CONFIG)


def test_the_targets_expert_takes_the_pools_configuration_and_not_a_strangers(
    backbone: Backbone, pool: Pool
) -> None:
    around = neighborhood_of(pool)
    own = around.experts["text0"]
    stranger = replace(own.card, name="s", initialisation="unknown", backbone="?elsewhere")
    experts = {f"s{i}": Expert(replace(stranger, name=f"s{i}"), own.config, own.tensors) for i in range(5)}
    found = ExactNeighborhood({**experts, "text0": own}, {}).typical(backbone)
    assert found is own
    far = Expert(replace(own.card, backbone="0" * 64), own.config, own.tensors)
    with pytest.raises(PoolError, match="trained on this backbone"):
        ExactNeighborhood({"far": far}, {}).typical(backbone)
    embedded = {"far": pool.embedding("text0")}
    assert ExactNeighborhood({"far": far, "text0": own}, embedded).typical(backbone) is own


WIDER = {"e": ["query", "value"], "f": ["value", "query"], "g": {"query", "value"}}


def test_in_delta_space_the_targets_expert_is_made_as_most_that_can_be_mixed_there(
    backbone: Backbone, pool: Pool, tmp_path: Path
) -> None:
    around = neighborhood_of(pool)
    own = around.experts["text0"]
    card = replace(own.card, initialisation="unknown", backbone="?elsewhere")

    def elsewhere(name: str, **options: Any) -> Expert:
        config = copy.deepcopy(own.config)
        vars(config).update(options)
        return Expert(replace(card, name=name), config, own.tensors)

    odd = {"a": elsewhere("a", bias="lora_only"), "b": elsewhere("b", use_dora=True)}
    plain = {name: elsewhere(name, r=rank) for name, rank in (("c", 4), ("d", 8), ("e", 8))}
    assert ExactNeighborhood({**odd, **plain}, {}).typical(backbone, "delta") is plain["d"]
    assert ExactNeighborhood(odd, {}).typical(backbone, "delta") is None
    alien = elsewhere("alien", lora_alpha=1000)
    assert ExactNeighborhood({"alien": alien, "text0": own}, {}).typical(backbone, "delta") is own
    small = {name: elsewhere(name, r=2) for name in ("y", "z")}
    assert ExactNeighborhood({"text0": own, **small}, {}).typical(backbone, "delta") is small["y"]
    few = {name: elsewhere(name, target_modules=["query"]) for name in ("c", "d")}
    most = {name: elsewhere(name, target_modules=modules) for name, modules in WIDER.items()}
    assert ExactNeighborhood({**few, **most}, {}).typical(backbone, "delta") is most["e"]
    whole = {"base_model.model.lm_head.weight": torch.zeros(1)}
    chat = elsewhere("chat", modules_to_save=["lm_head"])
    chat = Expert(chat.card, chat.config, {**chat.tensors, **whole})
    assert ExactNeighborhood({"chat": chat}, {}).typical(backbone, "delta") is None
    assert "chat also trains lm_head, which is not part of B·A" in obstacle(chat, own, "delta")
    assert obstacle(own, chat, "delta") == obstacle(chat, chat, "delta") == ""
    told = obstacles(chat, Pool.create(tmp_path / "empty"), backbone)["delta"]
    assert told == "chat also trains lm_head, which is not part of B·A"


def test_a_run_has_one_seed() -> None:
    told = PiConfig(seed=5, train=TrainConfig(seed=7)).told
    assert (told["seed"], told["train"]["seed"], told["tune"]["seed"]) == (5, 5, 5)
    assert PiConfig(k=np.int64(2)).k == 2  # type: ignore[arg-type]


def test_an_expert_trained_before_is_the_targets_own(
    backbone: Backbone, target: Task, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = train_expert(backbone, target.sample(2, 0), replace(BRIEF, epochs=2, seed=5), may_keep_start=False)
    given = Expert.load(mine.renamed("mine").save(tmp_path / "mine"))
    monkeypatch.setattr(prediction_module, "train_expert", lambda *_, **__: pytest.fail("trained"))
    result = pi_tune(backbone, target, pool, CONFIG, expert=given)
    assert result.own.digest == given.digest
    assert result.own.name == "target:target"
    assert len(result.neighbors) == 2


def test_a_start_that_was_chosen_for_a_given_expert_is_kept(
    backbone: Backbone, target: Task, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = train_expert(backbone, target.sample(2, 0), BRIEF)
    kept: dict[str, Any] = {"expert": given, "workdir": tmp_path / "work", "resume": True}
    first = pi_tune(backbone, target, pool, CONFIG, **kept)
    monkeypatch.setattr(Mixing, "begin", lambda *_, **__: pytest.fail("chosen again"))
    assert pi_tune(backbone, target, pool, CONFIG, **kept).start == first.start
    changed = Pool.create(tmp_path / "changed")  # the same names, other experts
    for name in pool:
        expert = pool.get(name)
        other = replace(expert, tensors={key: 2 * value for key, value in expert.tensors.items()})
        changed.add(other, replace(pool.embedding(name), expert=other.digest))
    with pytest.raises(pytest.fail.Exception, match="chosen again"):
        pi_tune(backbone, target, changed, CONFIG, **kept)


def test_an_expert_that_learnt_nothing_is_no_neighbour(
    backbone: Backbone, target: Task, tmp_path: Path
) -> None:
    pool = Pool.create(tmp_path / "pool")
    add(pool, backbone, text_task(0, train=9))
    add(pool, backbone, text_task(1, train=9), replace(BRIEF, epochs=0))
    result = pi_tune(backbone, target, pool, CONFIG)
    assert [neighbor.name for neighbor in result.neighbors] == ["text0"]
    assert "text1 learnt nothing of its own task" in result.refused["text1"]


def test_an_expert_whose_task_teaches_nothing_is_no_neighbour(
    backbone: Backbone, target: Task, pool: Pool, tmp_path: Path
) -> None:
    silent = Pool.create(tmp_path / "pool")
    known = pool.embedding("text0")
    zero = replace(known, components={name: torch.zeros_like(t) for name, t in known.components.items()})
    silent.add(pool.get("text0"), zero)
    silent.add(pool.get("text1"), pool.embedding("text1"))
    result = pi_tune(backbone, target, silent, CONFIG)
    assert [neighbor.name for neighbor in result.neighbors] == ["text1"]
    assert "zero everywhere" in result.refused["text0"]


def test_the_own_expert_is_of_a_kind_with_those_that_can_be_its_neighbours(
    backbone: Backbone, target: Task, pool: Pool, tmp_path: Path
) -> None:
    mixed = Pool.create(tmp_path / "pool")
    add(mixed, backbone, replace(text_task(1), name="a"), replace(BRIEF, method="ia3", epochs=0))
    mixed.add(train_expert(backbone, text_task(2), replace(BRIEF, method="ia3"), name="b"))  # not embedded
    mixed.add(pool.get("text0"), pool.embedding("text0"))
    result = pi_tune(backbone, target, mixed, CONFIG)
    assert (result.own.method, [neighbor.name for neighbor in result.neighbors]) == ("LORA", ["text0"])


def test_alone_an_expert_is_not_tuned_again(backbone: Backbone, target: Task, tmp_path: Path) -> None:
    result = pi_tune(backbone, target, Pool.create(tmp_path / "pool"), CONFIG)
    assert (result.neighbors, result.kept, result.best_epoch) == ([], "expert", 0)
    assert same_tensors(result.mixture, result.own)


def test_frozen_experts_do_not_go_on_from_trained_ones(
    backbone: Backbone, target: Task, pool: Pool, tmp_path: Path
) -> None:
    experts = [pool.get("text0"), pool.get("text1")]
    tune(Mixture(backbone, experts), target, CONFIG.tune, workdir=tmp_path)
    frozen = Mixture(backbone, experts, train_experts=False)
    with pytest.raises(TrainingError, match="is of another run"):
        tune(frozen, target, CONFIG.tune, workdir=tmp_path, resume=True)


def test_a_mixture_does_not_tell_how_its_target_was_trained(
    backbone: Backbone, target: Task, pool: Pool
) -> None:
    own = train_expert(backbone, target, BRIEF)
    assert "best_epoch" in own.card.recipe
    recipe = Mixture(backbone, [own, pool.get("text0")], target=own.name).collapse().card.recipe
    assert recipe.keys() & {"best_epoch", "validation_loss"} == set()
    assert recipe["learning_rate"] == own.card.recipe["learning_rate"]


def test_a_pool_that_is_embedded_in_another_way_is_told_before_anything_is_trained(
    backbone: Backbone, target: Task, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_module, "train_expert", lambda *_, **__: pytest.fail("must not train"))
    with pytest.raises(PoolError, match=r"the target at its expert, the experts at the untrained"):
        pi_tune(backbone, target, pool, replace(CONFIG, fisher=FisherConfig(at="expert")))


def test_an_expert_that_was_embedded_on_the_targets_data_is_no_other(
    backbone: Backbone, target: Task, tmp_path: Path
) -> None:
    """As of an adapter from elsewhere, whose card does not say what it was trained on."""
    pool = Pool.create(tmp_path / "pool")
    add(pool, backbone, text_task(0, train=9))
    expert = train_expert(backbone, target, BRIEF, name="theirs")
    foreign = replace(expert, card=replace(expert.card, task="theirs", source=UNKNOWN))
    pool.add(foreign, embed(backbone, foreign, target))
    result = pi_tune(backbone, target, pool, replace(CONFIG, start="uniform"))
    assert [neighbor.name for neighbor in result.neighbors] == ["text0"]
    assert [other.name for other in result.others] == ["text0"]


def test_a_pool_without_embeddings_is_no_fault_of_an_own_expert(
    backbone: Backbone, target: Task, tmp_path: Path
) -> None:
    pool = Pool.create(tmp_path / "pool")
    pool.add(train_expert(backbone, text_task(0, train=9), BRIEF))
    own = train_expert(backbone, target.sample(2, 0), BRIEF)
    result = pi_tune(backbone, target, pool, CONFIG, expert=own)
    assert (result.neighbors, result.kept) == ([], "expert")
    assert "run `pituning embed`" in result.refused["text0"]


def test_an_adapter_trained_elsewhere_is_taken_for_the_tasks(
    backbone: Backbone, target: Task, pool: Pool
) -> None:
    trained = train_expert(backbone, target.sample(2, 0), BRIEF)
    elsewhere = ExpertCard(name="mine", task="mine", backbone="?elsewhere")
    given = Expert(elsewhere, trained.config, trained.tensors)
    result = pi_tune(backbone, target, pool, replace(CONFIG, space="delta", start="uniform"), expert=given)
    assert result.own.card.backbone == backbone.fingerprint
    assert [other.name for other in result.others][:2] == [n.name for n in result.neighbors]
    with pytest.raises(ExpertError, match=r"of a kind with the pool's.* initialisation .* `--space delta`"):
        pi_tune(backbone, target, pool, CONFIG, expert=given)


def test_an_expert_of_the_task_itself_does_not_say_whether_it_can_be_mixed(
    backbone: Backbone, target: Task, tmp_path: Path
) -> None:
    pool = Pool.create(tmp_path / "pool")
    add(pool, backbone, target, replace(BRIEF, method="ia3"))
    result = pi_tune(backbone, target, pool, replace(CONFIG, train=replace(BRIEF, method="lora")))
    assert (result.kept, result.neighbors) == ("expert", [])


@pytest.mark.parametrize(
    ("method", "space", "told"),
    [
        ("ia3", "parameters", "text0 is LORA, the task's own is IA3"),
        ("ia3", "delta", "delta space is defined for LoRA"),
    ],
)
def test_what_can_be_mixed_with_none_is_not_trained_first(
    method: str, space: Any, told: str, backbone: Backbone, target: Task, pool: Pool, caplog: Any
) -> None:
    caplog.set_level("INFO")
    config = replace(CONFIG, space=space, train=replace(BRIEF, method=method))
    with pytest.raises(ExpertError, match=told):
        pi_tune(backbone, target, pool, config)
    assert "training" not in caplog.text


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"backbone": "0" * 64}, "backbone it was trained on"),
        ({"task": "other"}, "of the task other"),
        ({"labels": ["no", "such"]}, "answers no, such"),
    ],
)
def test_an_own_expert_of_something_else_is_refused(
    backbone: Backbone, target: Task, pool: Pool, wrong: dict[str, Any], told: str
) -> None:
    own = train_expert(backbone, target.sample(2, 0), BRIEF)
    with pytest.raises(ExpertError, match=told):
        pi_tune(backbone, target, pool, CONFIG, expert=replace(own, card=replace(own.card, **wrong)))


def test_an_own_expert_is_not_judged_on_what_it_was_trained_on(
    backbone: Backbone, target: Task, pool: Pool
) -> None:
    without = replace(target, validation=())
    whole = train_expert(backbone, without, BRIEF)
    with pytest.raises(ExpertError, match="may have seen all"):
        pi_tune(backbone, without, pool, CONFIG, expert=whole)
    pi_tune(backbone, without, pool, CONFIG, expert=train_expert(backbone, without.sample(2, 0), BRIEF))


def test_classifiers_with_heads_of_their_own_are_mixed(
    backbone_of: Callable[[str], Backbone], target: Task, tmp_path: Path
) -> None:
    classifier, pool = backbone_of("bert_classifier"), Pool.create(tmp_path / "pool")
    for seed in range(2):
        around = neighborhood_of(pool)
        task = text_task(seed, train=9)
        expert = train_expert(classifier, task, BRIEF, like=around.typical(classifier))
        pool.add(expert, embed(classifier, expert, task))
    result = pi_tune(classifier, target, pool, CONFIG)
    assert result.refused == {}
    assert len(result.neighbors) == 2


def test_the_same_seed_gives_the_same_adapter(backbone: Backbone, target: Task, pool: Pool) -> None:
    torch.manual_seed(1)
    first = pi_tune(backbone, target, pool, CONFIG)
    torch.manual_seed(2)
    second = pi_tune(backbone, target, pool, CONFIG)
    assert same_tensors(first.expert, second.expert)
    assert first.scores == second.scores
