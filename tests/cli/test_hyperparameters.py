"""Hyperparameters: decoding returns the encoded overrides."""

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sagehound.cli.hyperparameters import decode, encode, values
from sagehound.errors import ConfigError

KEYS = st.from_regex(r"(\+{0,2})[a-z]\w{0,9}\.[a-z]\w{0,9}", fullmatch=True)
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ['"64"', '"', '""', '"\\"x\\""', "[512,256]", "'a b'", "{a:1}", "0.1", "null", "a=b", " "]
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6), st.booleans())
def test_decoding_returns_the_encoded_overrides(given: dict[str, str], deletes: bool) -> None:
    assume(not any("${" in value or "_target_" in value for value in given.values()))
    overrides = [f"{key}={value}" for key, value in given.items()] + ["~augment.flip"] * deletes
    sent = encode(overrides)
    assert all(isinstance(value, str) for value in sent.values())
    written = json.loads(json.dumps(sent | {"_tuning_objective_metric": '"x"', "sagemaker_job_name": '"y"'}))
    assert decode(written, "hyperparameters.json") == overrides
    assert values(written) == {o.partition("=")[0]: o.partition("=")[2] for o in overrides}


def test_overrides_of_every_form_come_back() -> None:
    overrides = [
        "+a.b=[512,256]",
        '++c.d="64"',
        "e.f='a b'",
        "g.h={a:1}",
        "i.j=null",
        "k.l=",
        "m.n=a=b",
        "~augment.flip",
    ]
    assert decode(json.loads(json.dumps(encode(overrides))), "hyperparameters.json") == overrides


@given(st.dictionaries(KEYS, st.text(alphabet="abc019.,-", min_size=1, max_size=9), max_size=6))
def test_quotes_of_the_sdk_are_removed(given: dict[str, str]) -> None:
    assert values({key: json.dumps(value) for key, value in given.items()}) == given


def test_the_last_value_of_a_key_wins() -> None:
    assert encode(["seed=1", "optimizer.lr=1", "seed=2"]) == {"optimizer.lr": "1", "seed": "2"}


def test_encode_refuses_code() -> None:
    with pytest.raises(ConfigError, match=r"loss\._target_=mine\.Loss: .*put it into a YAML file"):
        encode(["loss._target_=mine.Loss"])
