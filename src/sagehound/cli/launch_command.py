"""Tune, train on SageMaker, and what comes after training; without model=, a stage that needs one trains it first.

sagehound launch -m hpo=optuna "optimizer.lr=tag(log, interval(1e-4, 1e-1))"    look for the best hyperparameters
sagehound launch -m hpo=sagemaker aws.role=NAME                      the same by a tuning job of SageMaker
sagehound launch trainer=sagemaker aws.role=NAME data=folder data.root=PATH     train there; -m key=a,b for a sweep
sagehound launch trainer=sagemaker aws=emulator data=demo            the same on this machine, at no cost
sagehound launch image=ecr                                           the image that jobs run in
sagehound launch deploy=local model=RUN                              a server, and a page to drop photos on
sagehound launch transform=local model=RUN data.root=PHOTOS          predictions.csv of a folder
sagehound launch probe=local endpoint=http://127.0.0.1:8080 n=all    how good and how fast an endpoint answers
sagehound launch probe=sagemaker endpoint=NAME                       the same on SageMaker
"""

from typing import Any

import hydra
from omegaconf import DictConfig

from sagehound import command
from sagehound.project import conf_folder
from sagehound_launchers.launch import launch


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="launch")
def main(cfg: DictConfig) -> Any:  # noqa: ANN401 - what Hydra's sweepers take
    """Run the stages that the command line names."""
    return launch(cfg)


def run() -> None:
    """`sagehound launch` with ``sys.argv``."""
    command.run(main, __doc__ or "")
