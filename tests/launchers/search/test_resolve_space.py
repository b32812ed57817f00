"""What is searched: the command line, conf/hpo/space, the optimizer's own space; a scientific value at its best."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from helpers import ROOT

from sagehound.errors import ConfigError
from sagehound_launchers.config import Launch, schema
from sagehound_launchers.search.isolation import isolate
from sagehound_launchers.search.resolve_space import find_space, refuse_others
from sagehound_launchers.search.results import write
from sagehound_launchers.search.samplers import importance, make_sampler
from sagehound_launchers.search.space import SearchSpace, parse, to_optuna, to_sagemaker
from sagehound_launchers.search.trial import Trial

SPACES = sorted(path.stem for path in (ROOT / "conf/hpo/space").glob("*.yaml"))
ADAMW = ["optimizer.lr", "optimizer.weight_decay", "optimizer.eps", "data.batch_size"]


def composed(overrides: Sequence[str]) -> Launch:
    return schema.composed(["data=folder", "data.root=x", *overrides])


def space_of(hpo: str, *arguments: str) -> tuple[SearchSpace, list[str]]:
    chosen = [a for a in arguments if a.startswith(("hpo/", "hpo.", "+hpo."))]
    return find_space([hpo, *arguments], composed([hpo, *chosen]).search, lambda more: composed(list(more)))


@pytest.mark.slow
@pytest.mark.parametrize("hpo", ["hpo=optuna", "hpo=sagemaker"])
def test_without_a_sweep_the_optimizers_space_is_searched(hpo: str) -> None:
    space, ours = space_of(hpo, "trainer.max_epochs=3")
    assert list(space.ranges) == ADAMW
    assert space.fixed == ["trainer.max_epochs=3"]
    assert ours == [hpo, "hpo/space=adamw"]
    assert set(space.roles.values()) == {"nuisance"}
    assert "optimizer.momentum" in space_of(hpo, "optimizer=sgd")[0].ranges


@pytest.mark.slow
@pytest.mark.parametrize("hpo", ["hpo=optuna", "hpo=sagemaker"])
def test_a_sweep_is_searched_alone_unless_a_space_is_chosen_beside_it(hpo: str) -> None:
    assert list(space_of(hpo, "head.dropout=0,0.5")[0].ranges) == ["head.dropout"]
    beside, ours = space_of(hpo, "head.dropout=0,0.5", "optimizer.eps=1e-8", "data.batch_size=8,9", "hpo/space=adamw")
    assert list(beside.ranges) == ["head.dropout", "data.batch_size", "optimizer.lr", "optimizer.weight_decay"]
    assert beside.ranges["data.batch_size"] == parse(["b=8,9"]).ranges["b"], "the command line's counts"
    assert "optimizer.eps=1e-8" in beside.fixed, "what is given is not searched"
    assert ours == [hpo, "hpo/space=adamw"]
    one = space_of(hpo, "hpo/space=adamw", "hpo.space.optimizer.lr='0.1,0.2'")[0]
    assert one.ranges["optimizer.lr"] == parse(["lr=0.1,0.2"]).ranges["lr"], "one key of a space may be another"


def test_a_space_that_does_not_fit_the_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="optimizer=sgd has no eps"):
        space_of("hpo=optuna", "hpo/space=adamw", "optimizer=sgd")


@pytest.mark.parametrize("name", SPACES)
def test_every_space_can_be_searched_here_and_on_sagemaker(name: str) -> None:
    optimizer = {"dogs_resnet50_adamw": "adamw", "dogs_resnet50_frozen": "adam"}.get(name, name)
    space, _ = space_of("hpo=optuna", f"hpo/space={name}", f"optimizer={optimizer}")
    assert set(to_optuna(space)) == set(space.ranges) == set(space.roles)
    assert sum(map(len, to_sagemaker(space).values())) == len(space.ranges)


def test_quasi_random_points_are_spread_evenly_and_go_on() -> None:
    space = to_optuna(parse(["lr=tag(log,interval(1e-4,1e-1))", "b=32,64,128,256", "one=a,a"]))
    study = optuna.create_study()
    points = []
    for before in range(16):  # each by a search that goes on
        study.sampler = make_sampler("qmc", 7, before, space)
        trial = study.ask(space)
        points.append(trial.params)
        study.tell(
            trial, state=optuna.trial.TrialState.FAIL if before < 2 else None, values=None if before < 2 else 1.0
        )
    assert Counter(p["b"] for p in points) == dict.fromkeys(("32", "64", "128", "256"), 4), "four of each"
    assert sum(p["lr"] >= 10**-2.5 for p in points) == 8, "as many in the lower half as in the upper half"
    assert len({p["lr"] for p in points}) == 16


def trial(number: int, objective: float | None, **point: str | float) -> Trial:
    return Trial(number, "failed" if objective is None else "complete", objective, 1.0, point)


def test_a_scientific_hyperparameter_is_judged_at_each_values_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = parse(["h=tag(scientific,choice(head,full,gradual))", "lr=tag(nuisance,log,interval(1e-5,1))"])
    # full is worse on average and better at its best
    found = [("head", 1e-2, 0.5), ("head", 1e-1, 0.4), ("full", 1e-1, 9.0), ("full", 1e-4, 0.3), ("full", 0.5, None)]
    trials = [trial(i, objective, h=h, lr=lr) for i, (h, lr, objective) in enumerate(found)]
    write(tmp_path, trials, space, maximize=False, objective="valid.loss")
    with (tmp_path / "isolation.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["hyperparameter", "value", "trials", "objective", "trial"],
            ["h", "head", "2", "0.4", "1"],
            ["h", "full", "2", "0.3", "3"],
            ["h", "gradual", "0", "", ""],
        ]
    assert "Best valid.loss by h" in capsys.readouterr().out
    assert (tmp_path / "plots/isolation.png").stat().st_size > 5_000


def test_without_a_scientific_hyperparameter_none_is_isolated(tmp_path: Path) -> None:
    space = parse(["lr=tag(nuisance,log,interval(1e-5,1))"])
    write(tmp_path, [trial(0, 1.0, lr=0.1)], space, maximize=False, objective="valid.loss")
    assert not (tmp_path / "isolation.csv").exists()


@pytest.mark.parametrize(
    ("sweep", "values", "names"),
    [
        ("x=tag(log,interval(1e-5,1))", [1e-5, 9e-5, 1.1e-4, 1.0], ["1e-05..0.0001", "0.0001..0.001"]),
        ("x=interval(0,10)", [0.0, 1.9, 2.1, 10.0], ["0..2", "2..4"]),
        ("x=range(0,100)", [0, 19, 20, 99], ["0..19.8", "19.8..39.6"]),
        ("x=tag(reverse_log,interval(0.9,0.99999))", [0.9, 0.98, 0.985, 0.99999], ["0.9..0.984", "0.984..0.997"]),
    ],
)
def test_an_interval_is_cut_into_fifths_of_its_scale(sweep: str, values: list[float], names: list[str]) -> None:
    trials = [trial(i, float(i), x=x) for i, x in enumerate(values)]
    found = isolate(trials, "x", parse([sweep]).ranges["x"], maximize=True)
    assert [v.name for v in found][:2] == names
    assert [v.trials for v in found] == [2, 1, 0, 0, 1], "both ends are in"
    assert [v.best.number if v.best else None for v in found] == [1, 2, None, None, 3]


def test_few_integers_are_their_own_values() -> None:
    found = isolate([trial(0, 1.0, x=3)], "x", parse(["x=range(1,6,2)"]).ranges["x"], maximize=True)
    assert [(v.name, v.trials) for v in found] == [("1", 0), ("3", 1), ("5", 0)]


def test_importance_names_what_matters() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    study.optimize(lambda t: t.suggest_float("lr", 0, 1) ** 2 + 0.01 * t.suggest_float("eps", 0, 1), n_trials=9)
    assert importance(study) == "", "too few"
    study.optimize(lambda t: t.suggest_float("lr", 0, 1) ** 2 + 0.01 * t.suggest_float("eps", 0, 1), n_trials=30)
    assert importance(study).startswith("lr ")


def test_a_search_replaces_no_users_file(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").touch()
    with pytest.raises(ConfigError, match=r"holds best.yaml, which would be replaced: give hpo.study=ANOTHER"):
        refuse_others(tmp_path, "study.journal", overwrite=False)
    (tmp_path / "study.journal").touch()
    refuse_others(tmp_path, "study.journal", overwrite=False)
