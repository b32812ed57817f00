"""Hydra's grammar to one search space, to Optuna and SageMaker, and proposed values back to overrides."""

import json
import shlex
from typing import Any

import pytest
from helpers import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna import Study, create_study
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from sagehound.cli.hyperparameters import values as hyperparameters
from sagehound.config import typed
from sagehound.errors import ConfigError
from sagehound_launchers.sagemaker.tuning import point
from sagehound_launchers.search.space import Choice, Interval, overrides, parse, to_optuna, to_sagemaker
from sagemaker_emulator.jobs.sampling import Sampler


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("lr=interval(1e-4,1e-1)", Interval(1e-4, 1e-1)),
        ("lr=tag(log, interval(1e-4,1e-1))", Interval(1e-4, 1e-1, scale="log")),
        ("m=tag(reverse_log, interval(0.5,0.99))", Interval(0.5, 0.99, scale="reverse_log")),
        ("n=int(interval(1,9))", Interval(1, 9, integer=True)),
        ("n=tag(log,int(interval(1,9)))", Interval(1, 9, integer=True, scale="log")),
        ("n=range(1,10)", Interval(1, 9, integer=True)),
        ("n=range(10,0,-2)", Interval(2, 10, integer=True, step=2)),
        ("n=range(1,10,3)", Interval(1, 7, integer=True, step=3)),
        ("d=range(0.1,0.5,0.1)", Choice(("0.1", "0.2", "0.3", "0.4"))),
        ("b=32,64", Choice(("32", "64"))),
        ("optimizer=adam,sgd", Choice(("adam", "sgd"))),
        ("head.hidden=[],[512,256]", Choice(("[]", "[512,256]"))),
        ("x=choice(a,'b c',true,1e-3)", Choice(("a", "b c", "true", "0.001"))),
        ("x=choice('1','true','a,b','it\\'s')", Choice(("'1'", "'true'", "'a,b'", "'it\\'s'"))),
        ("x=a,b,a", Choice(("a", "b"))),
    ],
)
def test_the_grammar(override: str, expected: object) -> None:
    space = parse([override, "seed=1"])
    assert list(space.ranges.values()) == [expected]
    assert list(space.ranges) == [override.partition("=")[0]]
    assert space.fixed == ["seed=1"]


def test_roles() -> None:
    space = parse(
        ["a=tag(scientific,choice(1,2))", "b=tag(nuisance,log,interval(1,2))", "c=tag(fixed,choice(3))", "d=1,2"]
    )
    assert space.roles == {"a": "scientific", "b": "nuisance"}
    assert list(space.ranges) == ["a", "b", "d"]
    assert space.fixed == ["c=3"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a=interval(2,1)"], "the smaller first"),
        (["a=interval(nan,1)"], "two finite numbers"),
        (["a=tag(log,interval(0,1))"], "must lie above 0"),
        (["a=tag(reverse_log,interval(0.5,1))"], "between 0 and 1"),
        (["a=tag(log,reverse_log,interval(0.1,0.2))"], "contradict each other"),
        (["a=tag(log,choice(1,2))"], "log scales an interval"),
        (["a=tag(magic,interval(1,2))"], "no such tag magic; choose from log, reverse_log, scientific"),
        (["a=tag(scientific,nuisance,choice(1,2))"], "scientific and nuisance contradict"),
        (["a=tag(fixed,choice(1,2))"], "what is fixed has one value"),
        (["a=range(5,5)"], "an empty range"),
        (["a=glob(*)"], "cannot be searched"),
        (["a=1,2", "a=3,4"], "is searched already"),
        (["a=interval("], "not an override"),
    ],
)
def test_what_cannot_be_searched_is_said(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


SPACE = [
    "optimizer.lr=tag(log, interval(1e-4,1e-1))",
    "optimizer.eps=tag(log, interval(1e-9,1e-7))",
    "data.batch_size=32,64,128,256",
    "head.dropout=interval(0,0.5)",
    "trainer.max_epochs=range(2,6)",
    "features.views=range(0,10,5)",
    "head.hidden=[],[512,256]",
    "finetune=head,full",
]


def test_optunas_distributions() -> None:
    assert to_optuna(parse(SPACE)) == {
        "optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
        "optimizer.eps": FloatDistribution(1e-9, 1e-7, log=True),
        "data.batch_size": CategoricalDistribution(("32", "64", "128", "256")),
        "head.dropout": FloatDistribution(0, 0.5),
        "trainer.max_epochs": IntDistribution(2, 5),
        "features.views": IntDistribution(0, 5, step=5),
        "head.hidden": CategoricalDistribution(("[]", "[512,256]")),
        "finetune": CategoricalDistribution(("head", "full")),
    }


def test_sagemakers_ranges() -> None:
    found = to_sagemaker(parse([*SPACE, "optimizer.weight_decay=tag(reverse_log,interval(0,0.9))"]))
    assert found["ContinuousParameterRanges"] == [
        {"Name": "optimizer.lr", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"},
        {"Name": "optimizer.eps", "MinValue": "1e-09", "MaxValue": "1e-07", "ScalingType": "Logarithmic"},
        {"Name": "head.dropout", "MinValue": "0.0", "MaxValue": "0.5", "ScalingType": "Linear"},
        {"Name": "optimizer.weight_decay", "MinValue": "0.0", "MaxValue": "0.9", "ScalingType": "ReverseLogarithmic"},
    ]
    assert found["IntegerParameterRanges"] == [
        {"Name": "trainer.max_epochs", "MinValue": "2", "MaxValue": "5", "ScalingType": "Linear"}
    ]
    assert found["CategoricalParameterRanges"][1] == {"Name": "features.views", "Values": ["0", "5"]}
    _validate(found)


def _validate(ranges: dict[str, Any]) -> None:
    """Against the model that boto3 itself checks requests with."""
    import botocore.session
    from botocore.validate import ParamValidator

    shape = botocore.session.get_session().get_service_model("sagemaker").shape_for("ParameterRanges")
    assert ParamValidator().validate(ranges, shape).generate_report() == ""


@pytest.mark.parametrize(
    ("given", "grid", "message"),
    [
        ([f"a=range(0,{31 * 2},2)"], False, "31 values, a tuning job takes 30"),
        ([f"k{i}=1,2" for i in range(31)], False, "31 keys are searched: a tuning job takes 30"),
        (["a=x," + "y" * 300], False, "at most 256 characters"),
        (["a=interval(1.0,2.0)"], True, "a grid takes values, not intervals"),
    ],
)
def test_a_tuning_jobs_limits(given: list[str], grid: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_sagemaker(parse(given), grid=grid)


def composed(given: list[str]) -> Any:  # noqa: ANN401 - OmegaConf's
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=["data=folder", "data.root=x", "augment=light", *given])
    typed(cfg)
    return cfg


def test_the_middle_of_a_space_composes() -> None:
    cfg = composed(parse(SPACE).middle())
    assert cfg.optimizer.lr == pytest.approx(10**-2.5)
    assert (cfg.data.batch_size, cfg.head.hidden) == (32, [])


@pytest.mark.slow
def test_what_optuna_proposes_composes_and_is_what_was_proposed() -> None:
    space = parse([o for o in SPACE if not o.startswith(("finetune", "features"))])
    study: Study = create_study(sampler=RandomSampler(seed=0))
    for _ in range(20):
        point = study.ask(to_optuna(space)).params
        cfg = composed(overrides(point))
        for key, value in point.items():
            found = OmegaConf.select(cfg, key)
            if isinstance(value, str):
                found = str(OmegaConf.to_container(found) if OmegaConf.is_list(found) else found).replace(" ", "")
            assert found == value


numbers = st.floats(1e-9, 1e9) | st.floats(-1e9, 1e9)
words = st.text('abyz_-. 0123456789,()[]{}=:$%"', min_size=1, max_size=12).map(lambda text: "'" + text + "'")
values = st.one_of(st.integers(-(10**9), 10**9).map(str), numbers.map(repr), st.booleans().map(str), words)
ranges = st.one_of(
    st.tuples(numbers, numbers).filter(lambda p: p[0] < p[1]).map(lambda p: f"interval({p[0]!r},{p[1]!r})"),
    st.tuples(st.integers(-(10**6), 10**6), st.integers(1, 10**6)).map(
        lambda p: f"int(interval({p[0]},{p[0] + p[1]}))"
    ),
    st.lists(values, min_size=2, max_size=6, unique=True).map(lambda v: "choice(" + ",".join(v) + ")"),
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    sweeps=st.dictionaries(st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5})?", fullmatch=True), ranges, min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
)
def test_any_space_and_what_is_proposed_comes_back_unchanged(sweeps: dict[str, str], seed: int) -> None:
    """Optuna proposes, the values travel as SageMaker's strings, quoted or not, and parse to what was sent."""
    space = parse([f"{key}={sweep}" for key, sweep in sweeps.items()])
    point = create_study(sampler=RandomSampler(seed=seed)).ask(to_optuna(space)).params
    sent = dict(o.split("=", 1) for o in overrides(point))
    for quoted in (sent, {k: f'"{v}"' for k, v in sent.items()}):
        back = hyperparameters(quoted | {"_tuning_objective_metric": '"x"', "sagemaker_job_name": "y"})
        assert back == sent
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in back.items()])
    for override in parsed:
        expected = point[override.key_or_group]
        assert not override.is_sweep_override()
        if isinstance(expected, str):
            sweep = OverridesParser.create().parse_override(f"k={sweeps[override.key_or_group]}")
            assert override.value() in [v.text if isinstance(v, QuotedString) else v for v in sweep._value.list]
        else:
            assert override.value() == expected
    assert shlex.split(shlex.join(f"{k}={v}" for k, v in back.items())) == [f"{k}={v}" for k, v in back.items()]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    sweeps=st.dictionaries(st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5})?", fullmatch=True), ranges, min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
)
def test_what_a_tuning_job_proposes_comes_back_unchanged(sweeps: dict[str, str], seed: int) -> None:
    """The emulator proposes from SageMaker's ranges; what the job is given and what is read back are that."""
    space = parse([f"{key}={sweep}" for key, sweep in sweeps.items()])
    sampler = Sampler(to_sagemaker(space), seed, guided=False)
    proposed = sampler.propose([])
    assert proposed == Sampler(to_sagemaker(space), seed, guided=False).propose([]), "by the seed"
    assert proposed.keys() == space.ranges.keys()
    given_to_the_job = json.loads(json.dumps(proposed | {"_tuning_objective_metric": "valid.loss"}))
    sent = [f"{key}={value}" for key, value in hyperparameters(given_to_the_job).items()]
    for override in OverridesParser.create().parse_overrides(sent):
        key = override.key_or_group
        found, value = space.ranges[key], override.value()
        assert not override.is_sweep_override()
        if isinstance(found, Choice):
            assert proposed[key] in found.values
            expected = OverridesParser.create().parse_override(f"k={proposed[key]}").value()
            assert value == expected
        else:
            assert found.low <= value <= found.high
            assert point(proposed, space)[key] == value, "in trials.csv and best.yaml to the last digit"
