"""The typed config: every key with its default, its unit and the rules for its value."""

from sagehound.config.checks import check, check_values, is_registered, register, registered, typed
from sagehound.config.data_keys import Augment, Columns, Data, refuse_overlap
from sagehound.config.fields import (
    allowed_values,
    as_dict,
    did_you_mean,
    extra,
    group,
    group_of,
    is_open,
    key,
    leaves,
    unknown_key,
)
from sagehound.config.machine_keys import Cache, Debugger, Features, Profiler, Trainer, default_cache
from sagehound.config.model_keys import Backbone, Finetune, Head
from sagehound.config.optimization_keys import Loss, Optimizer, Schedule
from sagehound.config.schema import Train

__all__ = [
    "Augment",
    "Backbone",
    "Cache",
    "Columns",
    "Data",
    "Debugger",
    "Features",
    "Finetune",
    "Head",
    "Loss",
    "Optimizer",
    "Profiler",
    "Schedule",
    "Train",
    "Trainer",
    "allowed_values",
    "as_dict",
    "check",
    "check_values",
    "default_cache",
    "did_you_mean",
    "extra",
    "group",
    "group_of",
    "is_open",
    "is_registered",
    "key",
    "leaves",
    "refuse_overlap",
    "register",
    "registered",
    "typed",
    "unknown_key",
]
