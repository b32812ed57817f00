"""These tests import timm and Lightning: as the commands do, without wandb, which takes half the time."""

from sagehound.system.imports import importing

with importing():
    import sagehound.training.train  # noqa: F401
