"""The stages of one command, in their order: image, train, transform, probe, deploy."""

import hashlib
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sagehound import command, console, interrupts, run_folder
from sagehound.config import check
from sagehound.errors import ConfigError, InputError, Stopped
from sagehound_launchers import config, reports
from sagehound_launchers.extras import needs

config.register()


def launch(cfg: DictConfig) -> dict[str, Any]:
    """Run the stages that the config asks for; without ``model``, and without a stage, a model is trained first.

    Returns:
        metrics.json of what was trained; empty if nothing was.
    """
    if cfg.hpo:
        return trial(cfg)
    metrics: dict[str, Any] = {}
    with command.job_errors():
        check(cfg)
        if cfg.deploy or cfg.transform or cfg.probe or cfg.image:
            interrupts.raise_from_now_on()
        if cfg.deploy:
            needs("deploy=local", "serve", "fastapi", "fastapi_offline", "uvicorn", "httptools", "prometheus_client")
        if cfg.probe:
            extra, package = ("sagemaker", "boto3") if cfg.probe.name == "sagemaker" else ("serve", "urllib3")
            needs(f"probe={cfg.probe.name}", extra, package)
        folder = Path(HydraConfig.get().runtime.output_dir)
        models = config.models(cfg)
        if cfg.image:
            from sagehound_launchers.sagemaker.image import push

            push(cfg)
        if not models and (cfg.deploy or cfg.transform or not (cfg.probe or cfg.image)):
            metrics = command.train(cfg)
            models = [str(folder)]
        if cfg.transform:
            transform(cfg, models[0])
        if cfg.probe:
            from sagehound_launchers.probe import probe

            probe(cfg, folder)
        if cfg.deploy:
            deploy(cfg, models)
    return metrics


def trial(cfg: DictConfig) -> dict[str, Any]:
    """Train one trial of a search; what is wrong is for the sweeper to say."""
    check(cfg)
    cfg.results = cfg.results or "scores"
    folder = Path(HydraConfig.get().runtime.output_dir)
    cfg.overwrite = run_folder.holds_trial(folder)  # a search uses each number once, so it is of an older search
    from sagehound.compute import choose
    from sagehound.training import train

    tell = reports.each_epoch(cfg.hpo.objective)
    if tell and choose(cfg.trainer, cfg.finetune).devices > 1:
        raise ConfigError(f"hpo.pruner={cfg.hpo.pruner} needs trials of one device: give trainer.devices=1")
    return train(cfg, folder, tell, command.given_overrides()).metrics


def deploy(cfg: DictConfig, models: list[str]) -> None:
    """Serve the models in this process, until a signal comes."""
    from sagehound.serving.desk import Limits
    from sagehound.serving.server import serve

    d = cfg.deploy
    limits = Limits(requests=d.max_requests, pixels=round(d.max_megapixels * 1e6))
    serve(names(models), d.host, d.port, limits, None if d.model_gb is None else round(d.model_gb * 1e9))


def transform(cfg: DictConfig, model: str) -> None:
    """Predict every photo below data.root.

    Raises:
        InputError: a folder could not be read, and the predictions of the others are written; or no photo could be.
    """
    from sagehound.data.folders import ignored_files
    from sagehound.serving.batch import predict_folder

    t, root = cfg.transform, Path(cfg.data.root).expanduser()
    output = Path(t.output).expanduser() if t.output else default_output(model, root, t.format)
    signal.signal(signal.SIGTERM, _stop)
    done, left_out = predict_folder(model, root, output, t.top_k)
    if done.failed:
        console.warn(f"{done.failed:,} of {done.photos:,} photos could not be read; their lines say why")
    if left_out.ignored:
        console.warn(ignored_files(left_out.ignored))
    if done.failed == done.photos:
        raise InputError(f"data.root={root}: no photo could be read ({done.first}); {output} lists {done.photos:,}")
    if done.photos == 1:
        console.say(done.first)
    read, unread = done.photos - done.failed, f", {done.failed:,} could not be read" if done.failed else ""
    console.say(f"predictions of {read:,} photo{'' if read == 1 else 's'}{unread}: {output}")
    if left_out.folders:
        raise InputError("; ".join(map(str, left_out.folders)) + "; their photos have no line")


def _stop(signum: int, _: FrameType | None) -> None:
    raise Stopped("stopped by SIGTERM; the same command goes on where it was", signum)


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
