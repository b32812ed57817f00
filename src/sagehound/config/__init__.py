"""The typed config: every key with its default, its unit and the rules that its value must follow."""

from sagehound.config.checks import check, check_values, is_registered, register, registered, typed
from sagehound.config.data import Augment, Columns, Data, refuse_overlap
from sagehound.config.fields import as_dict, extra, group, group_of, is_open, key, leaves, meant, unknown_key
from sagehound.config.machine import Cache, Debugger, Features, Trainer, default_cache
from sagehound.config.model import Backbone, Finetune, Head
from sagehound.config.optimization import Loss, Optimizer, Schedule
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
    "Schedule",
    "Train",
    "Trainer",
    "as_dict",
    "check",
    "check_values",
    "default_cache",
    "extra",
    "group",
    "group_of",
    "is_open",
    "is_registered",
    "key",
    "leaves",
    "meant",
    "refuse_overlap",
    "register",
    "registered",
    "typed",
    "unknown_key",
]
