"""Tune, train on SageMaker, deploy and test; a stage that needs a model trains one first, unless model= is given.

sagehound launch -m hpo=optuna "optimizer.lr=tag(log, interval(1e-4, 1e-1))"    search for the best hyperparameters
sagehound launch -m hpo=sagemaker aws.role=NAME                      the same with a SageMaker tuning job
sagehound launch trainer=sagemaker aws.role=NAME data=folder data.root=PATH     train there; -m key=a,b for a sweep
sagehound launch trainer=sagemaker aws=emulator data=demo            the same on this machine, free of charge
sagehound launch image=ecr                                           build the image for jobs
sagehound launch deploy=local model=RUN                              a server, with a web page for photos
sagehound launch deploy=sagemaker model=RUN aws.role=NAME            an endpoint; also serverless, async, multi_model
sagehound launch hpo=optuna trainer=sagemaker registry=sagemaker deploy=sagemaker    all of it, one step after another
sagehound launch list                                                what is on SageMaker, with its cost
sagehound launch permissions                                         policies for the caller and the role
sagehound launch delete=NAME                                         delete an endpoint; delete=all: everything
sagehound launch transform=local model=RUN data.root=PHOTOS          predictions.csv for a folder
sagehound launch probe=local endpoint=http://127.0.0.1:8080 n=all    accuracy and latency of an endpoint
sagehound launch probe=sagemaker endpoint=NAME                       the same on SageMaker
"""

import sys
from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig

from sagehound.cli import command
from sagehound.config.overrides import override
from sagehound.system.project import conf_folder
from sagehound_launchers.launch import launch, manage
from sagehound_launchers.workflow import plan
from sagehound_launchers.workflow import run as workflow


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="launch")
def main(cfg: DictConfig) -> Any:  # noqa: ANN401 - what Hydra's sweepers take
    """Run the stages that the command line names."""
    return launch(cfg)


def translated(argv: Sequence[str]) -> list[str]:
    """A command line with the words `list` and `permissions` as overrides, and with rules quoted for Hydra."""
    rule = "registry.require="  # whose > and = Hydra's grammar does not allow
    words = [override(rule[:-1], word.removeprefix(rule)) if word.startswith(rule) else word for word in argv]
    return [f"show={words[0]}", *words[1:]] if words and words[0] in ("list", "permissions") else words


def run() -> None:
    """`sagehound launch` with ``sys.argv``."""
    sys.argv[1:] = translated(sys.argv[1:])
    with command.clear_errors():
        if manage(sys.argv[1:]):
            return
        if steps := plan.of(sys.argv[1:]):
            workflow.run(steps)
            return
    command.run(main, __doc__ or "")
