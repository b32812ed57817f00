"""Composes the config of a command once; Hydra does it twice: to read hydra.mode, and to run."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

_MODE = "hydra.mode="


@contextmanager
def once() -> Iterator[None]:
    """Let Hydra use the config again from which it has read hydra.mode, within this block.

    A composition takes 0.1 to 0.2 s. Hydra validates sweeps only in the second one, and adds hydra.mode to the
    overrides; both are done here. If the first one fails, Hydra composes as usual.
    """
    compose = ConfigLoaderImpl.load_configuration
    composed: list[tuple[str | None, list[str], DictConfig]] = []

    def load(
        loader: ConfigLoaderImpl,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        if not validate_sweep_overrides:  # as Hydra does to read hydra.mode
            try:
                config = compose(loader, config_name, overrides, RunMode.RUN, from_shell, False)
            except Exception:
                return compose(loader, config_name, overrides, run_mode, from_shell, False)
            composed[:] = [(config_name, list(overrides), config)]
            return config
        if composed:
            name, before, config = composed.pop()
            added = overrides[len(before) :]
            if (name, before) == (config_name, overrides[: len(before)]) and all(o.startswith(_MODE) for o in added):
                parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
                loader.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
                for override in added:
                    config.hydra.mode = RunMode[override.removeprefix(_MODE)]
                    config.hydra.overrides.hydra.append(override)
                return config
        return compose(loader, config_name, overrides, run_mode, from_shell, validate_sweep_overrides)

    setattr(ConfigLoaderImpl, compose.__name__, load)
    try:
        yield
    finally:
        setattr(ConfigLoaderImpl, compose.__name__, compose)
