import sys
from pathlib import Path

import pytest
import torch

from sagehound.config.targets import check_arguments, resolve
from sagehound.errors import ConfigError, SagehoundError

MONITOR = "lightning.pytorch.callbacks.LearningRateMonitor"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (3, "callbacks.lr=3: give a mapping with _target_: callbacks.lr._target_=package.Class"),
        ({}, "callbacks.lr needs a _target_: give callbacks.lr._target_=package.Class"),
        ({"_target_": "Foo"}, "give a module and a name in it, such as my_file.MyClass"),
        ({"_target_": "lightnin.pytorch.Foo"}, "no module lightnin (did you mean lightning?), neither installed nor"),
        ({"_target_": "lightning.pytorch.callback.Foo"}, "no module lightning.pytorch.callback (did you mean callb"),
        ({"_target_": MONITOR[:-1]}, "lightning.pytorch.callbacks has no LearningRateMonito (did you mean Learning"),
        ({"_target_": "math.pi"}, "math.pi is float, not a class or function"),
        ({"_target_": MONITOR, "loging_interval": 1}, "callbacks.lr.loging_interval: LearningRateMonitor has no such"),
        ({"_target_": "lightning.pytorch.callbacks.EarlyStopping"}, "EarlyStopping needs monitor: give callbacks.lr.m"),
        ({"_target_": "builtins.dict", "a": {"_target_": "math.sinn"}}, "callbacks.lr.a._target_=math.sinn: math has"),
        ({"_target_": "builtins.dict", "a": [{"_target_": "math.sinn"}]}, "callbacks.lr.a[0]._target_=math.sinn: math"),
    ],
)
def test_the_error_for_a_wrong_target_names_the_key(node: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(node, "callbacks.lr")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_class_is_one_line() -> None:
    build = resolve({"_target_": MONITOR, "logging_interval": "sometimes"}, "callbacks.lr")
    with pytest.raises(
        ConfigError, match=r"^callbacks\.lr: \S+ cannot be built: MisconfigurationException: .*\.py:\d+"
    ):
        build()


def test_modules_in_the_current_folder_are_imported_and_their_errors_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p])
    (tmp_path / "of_this_folder.py").write_text(
        "import dataclasses\n\n@dataclasses.dataclass\nclass Foo:\n    a: int\n    b: object = None\n"
    )
    (tmp_path / "broken_module.py").write_text("x = y\n")
    (tmp_path / "needs_another.py").write_text("import a_module_of_nobody.inner\n")
    built = resolve(
        {"_target_": "of_this_folder.Foo", "a": 3, "b": [{"_target_": "of_this_folder.Foo", "a": 4}]}, "x"
    )()
    assert (built.a, built.b[0].a) == (3, 4)
    with pytest.raises(ConfigError, match=r"broken_module cannot be imported: NameError: .*\(broken_module.py:1\)"):
        resolve({"_target_": "broken_module.Foo"}, "x")
    with pytest.raises(SagehoundError, match=r"needs a_module_of_nobody, which is not installed: pip install a_mod"):
        resolve({"_target_": "needs_another.Foo"}, "x")


def test_the_caller_adds_arguments() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    groups = [{"params": weights, "lr": 3.0}]
    node = {"_target_": "torch.optim.AdamW", "lr": 0.1, "betas": [0.9, 0.99]}
    optimizer = resolve(node, "optimizer", positional=1)(groups)
    assert optimizer.param_groups[0]["params"][0] is weights[0]
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]) == (3.0, (0.9, 0.99))
    assert resolve(node, "optimizer", named=["params"])(params=weights).param_groups[0]["lr"] == 0.1
    with pytest.raises(ConfigError, match=r"optimizer\.params: Sagehound gives AdamW this argument itself: drop it"):
        resolve({**node, "params": 1}, "optimizer", positional=1)
    with pytest.raises(ConfigError, match=r"AdamW has no such argument \(did you mean eps\?\)"):
        resolve({**node, "ep": 1}, "optimizer", positional=1)


def test_partial_and_any_keyword() -> None:
    third = resolve({"_target_": "fractions.Fraction", "_partial_": True, "numerator": 1}, "x")()
    assert str(third(denominator=3)) == "1/3"
    check_arguments(lambda **kwargs: kwargs, {"anything": 1}, "x")
    with pytest.raises(ConfigError, match="it takes none"):
        check_arguments(lambda: None, {"anything": 1}, "x")
