from pathlib import Path
from typing import Any
from unittest.mock import patch

import hydra
import pytest
from helpers import ROOT
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sagehound import config
from sagehound.cli import composition
from sagehound_launchers.config.schema import register

COMPOSE = "_load_configuration_impl"

Jobs = list[dict[str, Any]]


def jobs_of(name: str) -> tuple[Jobs, str]:
    """Run a Hydra app with ``sys.argv``; returns the whole config of each job, and the error."""
    jobs: Jobs = []

    @hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name=name)
    def main(cfg: DictConfig) -> None:
        parts = {"app": cfg, "hydra": HydraConfig.instance().cfg}
        jobs.append({key: OmegaConf.to_container(part, resolve=False) for key, part in parts.items() if part})

    try:
        main()
    except Exception as error:
        return jobs, f"{type(error).__name__}: {error}"
    finally:
        GlobalHydra.instance().clear()
    return jobs, ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "spared"),
    [
        ("train", ["data=demo"], 1),
        ("train", ["data=demo", "trainer.max_epochs=3", "hydra.verbose=false"], 1),
        ("train", ["-m", "data=demo", "optimizer.lr=0.1,0.2", "hydra/sweeper=basic"], 1),
        ("train", ["data=demo", "hydra.mode=MULTIRUN", "seed=1,2", "hydra/sweeper=basic"], 1),
        ("train", ["-m", "data=demo", "hydra.mode=RUN", "seed=1,2", "hydra/sweeper=basic"], 1),
        ("launch", ["data=demo", "deploy=local"], 1),
        ("train", ["data=demo", "optimizer.lr=0.1,0.2"], 1),
        ("train", ["data=nowhere"], -1),
    ],
)
def test_a_command_has_the_config_of_hydra(
    name: str, arguments: list[str], spared: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (register if name == "launch" else config.register)()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr("sys.argv", ["program", *arguments, "hydra.run.dir=run", "hydra.sweep.dir=sweep"])
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    with patch.object(ConfigLoaderImpl, COMPOSE, autospec=True, side_effect=getattr(ConfigLoaderImpl, COMPOSE)) as of:
        expected = jobs_of(name)
        usual = of.call_count
        with composition.once():
            jobs, error = jobs_of(name)
    assert error == expected[1]
    for job, of_hydra in zip(jobs, expected[0], strict=True):
        assert [key for part in job for key in job[part] if job[part][key] != of_hydra[part][key]] == []
    assert of.call_count == 2 * usual - spared
    assert jobs or error
