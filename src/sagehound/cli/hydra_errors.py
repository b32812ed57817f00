"""Explains errors of Hydra and OmegaConf in one line. Imports no torch."""

import dataclasses
import re
from collections.abc import Iterator

from hydra.errors import OverrideParseException

from sagehound.config import did_you_mean, group_of, registered, unknown_key
from sagehound.config.overrides import as_text, is_free, is_text, override_key
from sagehound.system import program
from sagehound.system.project import conf_folder


def explain(error: Exception) -> str:
    """Explain an error in one line: the override, what is wrong with it, and the choices."""
    text = str(error)
    cause = str(error.__cause__ or error)
    if match := re.search(r"Could not find '(.+)/(.+)'", text):
        group, option = match.groups()
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        also = _ALSO.get(group, "")
        return (
            f"{group}={option}: no such option{did_you_mean(option, options)}; choose from {', '.join(options)}{also}"
        )
    if match := re.search(r"Could not load '(\w+)/(.+)'", text):  # in a list of options
        group, option = match.groups()
        options = sorted(file.stem for file in (conf_folder() / group).glob("*.yaml"))
        return f"{group}=[{option}]: no such option{did_you_mean(option, options)}; choose from {', '.join(options)}"
    if re.search(r"Key '\w+' (not in|is not in struct)", cause) and (match := re.search(r"full_key: (\S+)", cause)):
        key = match.group(1)
        if is_free(key):
            return f"{key}: no such key yet; +{key}=... adds it"
        group, _, argument = key.partition(".")
        extra = f"; trainer.extra.{argument} if Lightning's Trainer has it" if group == "trainer" else ""
        return unknown_key(key, list(_keys_beside(key))) + extra
    if match := re.search(r"Ambiguous value for argument '(\S+?)=(.*)'", text):
        key, value = match.groups()
        return f"{key}={value}: several values are a sweep: add -m; or write {key}=[{value}] for a list"
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        if is_text(override_key(key)) and "missing EQUAL" not in text:
            return (
                f"{error.override}: quote the value twice, for Hydra and for the shell: "
                f"{program.quoted(f'{key}={as_text(value)}')}"
            )
    named = re.search(r"override '?([^'\n]+)'?", text)
    override = f"{named.group(1).rstrip('.')}: " if named else ""
    if "mismatched input" in text or "token recognition" in text:
        return f"""{override}quote the value twice, for Hydra and for the shell: "key='a=b (c)'" """.rstrip()
    if "LexerNoViableAlt" in text:
        return f"""{text.partition(": ")[2].splitlines()[0]}: quote the value for Hydra too: "key='~/a'" """.rstrip()
    if "missing EQUAL" in text or "viable alternative" in text or "no such override" in text:
        return f"{override}not an override: write key=value, quoted for the shell: '{'key=[a,b]'}'"
    reason = cause.splitlines()[0]
    reason = next((plain for pattern, plain in _PLAIN.items() if re.search(pattern, reason)), reason)
    key = match.group(1) if (match := re.search(r"full_key: (\S+)", cause)) else ""
    return f"{override or (key and key + ': ')}{reason}"


def not_chosen(argv: list[str]) -> str:
    """The message for a key of a group without a chosen option."""
    keys = [override_key(o) for o in argv if "=" in o]
    for key in keys:
        group = key.partition(".")[0]
        if group != key and group not in keys and any(f.name == group for f in dataclasses.fields(registered())):
            return f"{key}: no {group} was chosen: add {group}=...; --help lists the options"
    return "a key belongs to a group without a chosen option: choose one; --help lists the options"


# values that a group accepts besides its options
_ALSO = {
    "backbone": ", or any name of timm.list_models() as backbone.name=...",
    "optimizer": ", or any name of torch.optim or timm.optim as optimizer.name=...",
}
# OmegaConf's messages about a value, and plain ones
_PLAIN = {
    "converted to Float": "must be a number",
    "converted to Integer": "must be a whole number",
    "not a valid bool": "must be true or false",
    "is not a ListConfig": "must be a list, such as [512,256]",
    "is not Optional|NoneType is not a subclass|Incompatible value 'None'": "must have a value, not null",
    "Cannot assign .* to Dict|Cannot merge DictConfig with|is not a subclass of": "takes keys: write KEY.NAME=VALUE",
    "Cannot convert .* to string": "must be text",
    "group override must be": "a config group takes the name of an option, not null",
}


def _keys_beside(key: str) -> Iterator[str]:
    """Yield the keys that a wrong key may stand for: those of its group, or the groups."""
    node = registered()
    *parents, _ = key.split(".")
    for parent in parents:
        groups = [group for f in dataclasses.fields(node) if f.name == parent and (group := group_of(f))]
        if not groups:
            return
        node = groups[0]
    yield from (".".join([*parents, f.name]) for f in dataclasses.fields(node))
