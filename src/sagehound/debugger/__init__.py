"""Tensors of the training for SageMaker Debugger's rules: collections and names."""

import importlib
import os
from typing import Any

from sagehound.config import Debugger
from sagehound.debugger import rules
from sagehound.debugger.rules.rule import Facts
from sagehound.errors import ConfigError

os.environ.setdefault("SMDEBUG_LOG_LEVEL", "off")  # read when smdebug is first imported; its errors are raised anyway

LOSS = "CrossEntropyLoss"  # the names that AWS's examples give to the inputs and the output of the loss
PREDICTIONS, LABELS = f"{LOSS}_input_0", f"{LOSS}_input_1"
RELU_INPUT, RELU_OUTPUT = ".*relu_input", ".*relu_output"  # timm names its layers act1; act1.relu_input_0 is written
SATURATING_INPUT = ".*(tanh|sigmoid)_input"

_REGEX = {  # of collections without a name in smdebug
    "relu_input": RELU_INPUT,
    "relu_output": RELU_OUTPUT,
    "saturating_input": SATURATING_INPUT,
    "labels": LABELS,
    "predictions": PREDICTIONS,
}
_SMALL = ("losses", "labels", "predictions")
_REDUCTIONS = "min,max,mean,std,variance,abs_mean,l2_norm"


def collections(cfg: Debugger) -> dict[str, dict[str, str]]:
    """What is saved of each collection, and how often, as AWS's CollectionParameters.

    Args:
        cfg: the group ``debugger``.
    """
    parameters = {}
    for name in dict.fromkeys(["losses", *cfg.collections]):  # smdebug always saves the losses
        small = name in _SMALL
        parameters[name] = {
            **({"include_regex": _REGEX[name]} if name in _REGEX else {}),
            "train.save_interval": str(cfg.loss_interval if small else cfg.train_interval),
            "eval.save_interval": str(cfg.loss_interval if small else cfg.eval_interval),
            **({"reductions": _REDUCTIONS} if cfg.reductions and not small else {}),
        }
    return parameters


def check(cfg: Debugger) -> None:
    """Check what the group names, before any photo is read.

    Raises:
        ConfigError: smdebug is needed and missing, or there is no such rule, parameter or class.
    """
    if cfg.name == "local":
        rules.make(cfg.rules, cfg.profile, Facts())
    if cfg.save:
        require()


def require() -> Any:  # noqa: ANN401 - smdebug ships no types
    """Import smdebug, which takes half a second.

    Raises:
        ConfigError: it is missing, or installed with packages that it does not work with.
    """
    try:
        return importlib.import_module("smdebug.pytorch")
    except ModuleNotFoundError as error:
        if error.name != "smdebug":
            raise _broken(error) from error
        raise ConfigError(
            "debugger.save=true needs smdebug, which is not installed: pip install 'sagehound[debugger]'"
        ) from error
    except (ImportError, TypeError, AttributeError) as error:  # protobuf or numpy is too new for it
        raise _broken(error) from error


def _broken(error: Exception) -> ConfigError:
    why = (str(error).splitlines() or [""])[0]
    return ConfigError(
        f"debugger.save=true: smdebug cannot be imported ({type(error).__name__}: {why}); its packages are not those "
        "that it needs: pip install 'sagehound[debugger]' in an environment of its own"
    )
