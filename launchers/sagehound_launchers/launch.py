"""The stages of one command, in their order: train, deploy, transform, probe."""

import hashlib
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sagehound import command, console
from sagehound.errors import ConfigError
from sagehound_launchers import config

config.register()


class CheckConfig(Callback):
    """Hydra callback that refuses a wrong config before Hydra makes a folder for the run."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ANN401 - Hydra's signature
        """Check the config of a single run."""
        with command.clear_errors():
            check(config)


check = config.check


def launch(cfg: DictConfig) -> None:
    """Run the stages that the config asks for; without ``model``, and without a stage, a model is trained first."""
    with command.clear_errors():
        check(cfg)
        folder = Path(HydraConfig.get().runtime.output_dir)
        models = config.models(cfg)
        if not models and not cfg.probe:
            command.train(cfg)
            models = [str(folder)]
        if cfg.transform:
            transform(cfg, models[0])
        if cfg.probe:
            from sagehound_launchers.probe import probe

            probe(cfg, folder)
        if cfg.deploy:
            deploy(cfg, models)


def deploy(cfg: DictConfig, models: list[str]) -> None:
    """Serve the models in this process, until a signal comes."""
    try:
        from sagehound.serving.app import Limits
        from sagehound.serving.server import serve
    except ModuleNotFoundError as error:
        raise missing("deploy=local", error, "serve") from error
    d = cfg.deploy
    limits = Limits(requests=d.max_requests, pixels=round(d.max_megapixels * 1e6))
    serve(names(models), d.host, d.port, limits, None if d.model_gb is None else round(d.model_gb * 1e9))


def transform(cfg: DictConfig, model: str) -> None:
    """Predict every photo below data.root."""
    from sagehound.serving.batch import predict_folder

    t, root = cfg.transform, Path(cfg.data.root).expanduser()
    output = Path(t.output).expanduser() if t.output else default_output(model, root, t.format)
    if output.suffix != f".{t.format}":
        raise ConfigError(f"transform.output={output} does not end in .{t.format}: choose transform.format to fit")
    done = predict_folder(model, root, output, t.top_k)
    if done.failed:
        console.warn(f"{done.failed:,} of {done.photos:,} photos could not be read; their lines say why")
    console.say(f"predictions of {done.photos:,} photos: {output}")


def default_output(model: str, root: Path, format_: str) -> Path:
    """The same model and folder always give the same place, so that a stopped command goes on."""
    known = hashlib.sha256(f"{Path(model).resolve()}\n{root.resolve()}".encode()).hexdigest()[:8]
    return Path("outputs/transform", f"{root.resolve().name}-{known}", f"predictions.{format_}")


def names(models: list[str]) -> dict[str, str]:
    """A name for each model: that of its run's folder, or of its archive.

    Raises:
        ConfigError: two models would have one name.
    """
    found: dict[str, str] = {}
    for model in models:
        path = Path(model).expanduser().resolve()
        name = path.parent.name if path.name == "model.tar.gz" else path.name.removesuffix(".tar.gz")
        if name in found:
            raise ConfigError(f"model: {found[name]} and {model} would both be called {name}; rename one")
        found[name] = model
    return found


def missing(stage: str, error: ModuleNotFoundError, extra: str) -> ConfigError:
    """The message for a stage whose packages are not installed."""
    return ConfigError(f"{stage} needs {error.name}, which is not installed: pip install 'sagehound[{extra}]'")
