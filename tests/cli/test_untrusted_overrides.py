"""Untrusted best.yaml, overrides.yaml and hyperparameters.json files may set values, but run no code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Command
from omegaconf import OmegaConf

from sagehound.cli.hyperparameters import decode
from sagehound.cli.previous_runs import resumed, with_best
from sagehound.cli.untrusted_overrides import refuse_targets
from sagehound.errors import ConfigError

TARGET = "a file may not contain a _target_"
HYDRA = "a file may not change what Hydra itself loads and runs"
OUTSIDE = "a file may not choose an option outside of the config's folders"
LOOKED_UP = "a file may not contain a value that is looked up elsewhere"
NO_OVERRIDE = "is not an override"
HOSTILE = [
    ("loss._target_=evil.mark", TARGET),
    ("+callbacks.evil._target_=evil.mark", TARGET),
    ("++callbacks.evil._target_=evil.mark", TARGET),
    ("~callbacks.check._target_", TARGET),
    ("logger@callbacks.evil._target_=csv", TARGET),
    ("+callbacks={evil:{_target_:evil.mark}}", TARGET),
    ("+callbacks={'evil':{'_target_':evil.mark}}", TARGET),
    ('+callbacks={"evil":{"_target_":evil.mark}}', TARGET),
    ("logger={a:[1,{b:{_target_:evil.mark}}]}", TARGET),
    ("logger.a=[[{_target_:evil.mark}]]", TARGET),
    ("logger.a=extend_list({_target_:evil.mark})", TARGET),
    ("loss={a:1},{_target_:evil.mark}", TARGET),
    ("loss=choice({a:1},{_target_:evil.mark})", TARGET),
    ("loss=tag(a,choice({_target_:evil.mark}))", TARGET),
    ("loss=shuffle({_target_:evil.mark},{a:1})", TARGET),
    ("hydra.searchpath=[file:///tmp/evil]", HYDRA),
    ("hydra.callbacks.check.x=1", HYDRA),
    ("~hydra.callbacks", HYDRA),
    ("hydra/launcher=joblib", HYDRA),
    ("hydra={searchpath:[x]}", HYDRA),
    ("+logger@hydra.callbacks=csv", HYDRA),
    ("data@_global_=demo", HYDRA),
    ("backbone=../../evil", OUTSIDE),
    ("backbone=/tmp/evil", OUTSIDE),
    ("backbone='../../evil'", OUTSIDE),
    ("experiment=../evil", OUTSIDE),
    ("+experiment=[dogs_resnet34,../evil]", OUTSIDE),
    ("experiment=dogs_resnet34,../evil", OUTSIDE),
    ("trainer/x=../../evil", OUTSIDE),
    ("+logger@callbacks.x=../evil", OUTSIDE),
    ("data.url='http://evil/${oc.env:HOME}'", LOOKED_UP),
    ("data.url=${oc.env:HOME}", LOOKED_UP),
    ("data.url=$\\{oc.env:HOME\\}", LOOKED_UP),
    ("callbacks='${oc.create:x}'", LOOKED_UP),
    ("data.url='${${a.b}:HOME}'", LOOKED_UP),
    ("data.url='$${a.b}{oc.env:HOME}'", LOOKED_UP),
    ("--config-dir=/tmp/evil", NO_OVERRIDE),
    ("--config-path=/tmp/evil", NO_OVERRIDE),
    ("-cd", NO_OVERRIDE),
    ("-m", NO_OVERRIDE),
    ("/tmp/evil", NO_OVERRIDE),
    ("seed", NO_OVERRIDE),
]
HARMLESS = [
    *("data=folder", "backbone=resnet34", "data.root='/a/b c/../d'", "head.hidden=[8,4]", "~augment", "seed=3"),
    *("experiment=dogs_resnet34", "trainer.patience=null", "aws.tags={a:b}", "augment=null", "best=multirun/x"),
    *("data.s3=s3://bucket/photos", "backbone.weights=pkg://a/b.pth", "data.name=${backbone.name}", "batch-size=64"),
]


@pytest.mark.parametrize(("override", "reason"), HOSTILE)
def test_an_override_that_could_run_code_is_refused(override: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        refuse_targets([*HARMLESS, override], "best.yaml")
    assert str(error.value).startswith(f"best.yaml: {override}: {reason}")
    assert "\n" not in str(error.value)


def test_overrides_that_set_values_pass() -> None:
    refuse_targets(HARMLESS, "best.yaml")


@pytest.mark.parametrize("override", [override for override, _ in HOSTILE])
def test_no_file_applies_a_hostile_override(tmp_path: Path, override: str) -> None:
    """Each is refused or ignored; best.yaml ignores hydra.* and keys of a single command."""
    key, _, value = override.partition("=")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    (tmp_path / "overrides.yaml").write_text(OmegaConf.to_yaml(["data=demo", override]))
    with pytest.raises(ConfigError, match=r"overrides\.yaml"):
        resumed([f"resume={tmp_path}"])
    if override == "seed":  # there is no key without a value in the other files
        return
    with pytest.raises(ConfigError, match=r"hyperparameters\.json"):
        decode({"data": "demo", key: value}, "hyperparameters.json")
    (tmp_path / "best.yaml").write_text(OmegaConf.to_yaml({"data": "demo", key: value}))
    try:
        taken = with_best([f"best={tmp_path}"])
    except ConfigError:
        return
    assert taken == ["data=demo", f"best={tmp_path}"], "ignored"


def test_the_command_line_takes_precedence_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text("loss._target_: evil.mark\nseed: 3\n")
    mine = [f"best={tmp_path}", "loss._target_=mine.Loss"]
    assert with_best(mine) == ["seed=3", *mine]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    (tmp_path / "overrides.yaml").write_text("- +loss._target_=evil.mark\n- seed=3\n")
    assert resumed([f"resume={tmp_path}", "loss._target_=mine.Loss"])[:2] == ["seed=3", "loss._target_=mine.Loss"]


def test_a_resumed_run_does_not_choose_where_results_are_sent(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    address = "logger.mlflow.tracking_uri=https://elsewhere"
    (tmp_path / "overrides.yaml").write_text(OmegaConf.to_yaml(["data=demo", "logger=mlflow", address]))
    with pytest.raises(ConfigError, match=r"overrides\.yaml: logger\.mlflow.*may not choose where results go"):
        resumed([f"resume={tmp_path}"])
    assert address in resumed([f"resume={tmp_path}", address]), "the command line may"


@pytest.mark.parametrize("content", ["a: b\n", "- 1\n", "- [a]\n", "{", "'"])
def test_a_file_without_a_list_of_overrides_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    (tmp_path / "overrides.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"overrides\.yaml holds no list of overrides") as error:
        resumed([f"resume={tmp_path}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    ["- &a [*a]\n", "- &a x=y\n- *a\n", "a: &a [1]\nb: &b [*a,*a]\nc: [*b,*b]\n", "- " + "[" * 1200 + "]" * 1200],
)
def test_yaml_that_expands_without_limit_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    for name in ("overrides.yaml", "best.yaml"):
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=r"overrides\.yaml holds no list of overrides"):
        resumed([f"resume={tmp_path}"])
    with pytest.raises(ConfigError, match=r"best\.yaml holds no overrides"):
        with_best([f"best={tmp_path}"])


@pytest.mark.slow
def test_loggers_json_may_contain_only_ids(tmp_path: Path, marker: Path) -> None:
    contents = ["[1]", "null", '{"mlflow": 3}', '{"mlflow": {"_target_": "evil.mark"}}', "{", "[" * 100000]
    (tmp_path / "run").mkdir()
    code = f"""
from pathlib import Path
from sagehound.evaluation import loggers
from sagehound.config import Train
from sagehound.errors import ConfigError
kind = "lightning.pytorch.loggers.CSVLogger"
cfg = Train(logger={{"mlflow": {{"_target_": kind}}}}, resume="run")
loggers._defaults = lambda node, folder, earlier: {{"save_dir": "run", "version": earlier}}
for content in {contents!r}:
    Path("run/loggers.json").write_text(content)
    try:
        with loggers.opened(cfg, Path("run"), loggers.check(cfg)):
            pass
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    line = "run/loggers.json holds no ids of runs: remove it to log to new ones\n"
    assert done.stdout == line * len(contents), done.stderr
    assert not marker.exists()


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the module ``evil`` creates when it is imported, also by evil.yaml."""
    marker = tmp_path / "marker"
    (tmp_path / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
        "from hydra.experimental.callback import Callback as Mark\n"
    )
    evil = "# @package _global_\nhydra:\n  callbacks:\n    evil:\n      _target_: evil.Mark\n"
    (tmp_path / "evil.yaml").write_text(evil)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/experiment").mkdir()
    (tmp_path / "conf/experiment/evil.yaml").write_text(evil)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return marker


def attacks(tmp_path: Path) -> list[str]:
    """Five command lines that execute evil.py."""
    out = os.path.relpath(tmp_path / "evil", ROOT / "conf/experiment")
    return [
        "+hydra.callbacks.evil._target_=evil.Mark",
        "+hydra.callbacks.evil={_target_:evil.Mark}",
        f"experiment={out}",
        f"--config-dir={tmp_path / 'conf'}",
        f"hydra.searchpath=[file://{tmp_path / 'conf'}]",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_the_attacks_work_from_the_command_line(command: Command, marker: Path, tmp_path: Path, number: int) -> None:
    attack = attacks(tmp_path)[number]
    option = ["experiment=evil"] if "conf" in attack.rpartition("/")[2] else []
    command(attack, "data=folder", "data.root=nowhere", *option)
    assert marker.exists(), "else the next tests show nothing"


@pytest.mark.parametrize("number", range(5))
def test_a_hostile_overrides_yaml_runs_nothing(command: Command, marker: Path, tmp_path: Path, number: int) -> None:
    attack = attacks(tmp_path)[number]
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt").touch()
    saved = ["data=folder", "data.root=nowhere", attack, "experiment=evil"]
    (run / "overrides.yaml").write_text(OmegaConf.to_yaml(saved))
    done = command(f"resume={run}")
    assert not marker.exists()
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert str(run / "overrides.yaml") in done.stderr
    assert attack.partition("=")[0] in done.stderr


@pytest.mark.parametrize("override", ["loss._target_=evil.mark", "+callbacks.evil._target_=evil.mark"])
def test_a_hostile_best_yaml_runs_nothing(command: Command, marker: Path, tmp_path: Path, override: str) -> None:
    key, _, value = override.partition("=")
    (tmp_path / "best.yaml").write_text(OmegaConf.to_yaml({"seed": 1, key: value}))
    done = command("data=folder", "data.root=nowhere", f"best={tmp_path}")
    assert not marker.exists()
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "best.yaml") in done.stderr
    assert f"{override}: a file may not contain a _target_" in done.stderr
    assert "give it on the command line as well" in done.stderr


@pytest.mark.parametrize("number", range(5))
def test_a_hostile_best_yaml_finds_no_other_config(command: Command, marker: Path, tmp_path: Path, number: int) -> None:
    key, _, value = attacks(tmp_path)[number].partition("=")
    (tmp_path / "best.yaml").write_text(OmegaConf.to_yaml({key: value, "experiment" if number > 2 else "seed": "evil"}))
    done = command("data=folder", "data.root=nowhere", f"best={tmp_path}")
    assert not marker.exists()
    assert done.returncode in (2, 3)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", range(5))
def test_hostile_hyperparameters_run_nothing(marker: Path, tmp_path: Path, number: int) -> None:
    key, _, value = attacks(tmp_path)[number].partition("=")
    config = tmp_path / "ml/input/config"
    config.mkdir(parents=True)
    given = {"data": "folder", "data.root": "nowhere", key: json.dumps(value), "experiment": "evil"} | {key: value}
    (config / "hyperparameters.json").write_text(json.dumps(given))
    done = subprocess.run(
        [sys.executable, "-c", "from sagehound.cli.sagemaker_container import train; train()"],
        env=os.environ | {"SAGEMAKER_EMULATOR_OPT_ML": str(tmp_path / "ml"), "SAGEHOUND_HOME": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not marker.exists()
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert f"{config / 'hyperparameters.json'}: {key}" in done.stderr
    assert key in (tmp_path / "ml/output/failure").read_text()
