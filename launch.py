"""Tune, train on SageMaker, and what comes after training; without model=, a stage that needs one trains it first.

python launch.py -m hpo=optuna "optimizer.lr=tag(log, interval(1e-4, 1e-1))"    look for the best hyperparameters
python launch.py -m hpo=sagemaker aws.role=NAME                      the same by a tuning job of SageMaker
python launch.py trainer=sagemaker aws.role=NAME data=folder data.root=PATH     train there; -m key=a,b for a sweep
python launch.py trainer=sagemaker aws=emulator data=demo            the same on this machine, for nothing
python launch.py image=ecr                                           the image that jobs run in
python launch.py deploy=local model=RUN                              a server, and a page to drop photos on
python launch.py transform=local model=RUN data.root=PHOTOS          predictions.csv of a folder
python launch.py probe=local endpoint=http://127.0.0.1:8080 n=all    how good and how fast an endpoint answers
python launch.py probe=sagemaker endpoint=NAME                       the same on SageMaker
"""

from sagehound import starting  # noqa: F401 - before the other imports, for Ctrl-C

# isort: split
from typing import Any

import hydra
from omegaconf import DictConfig

from sagehound import command
from sagehound_launchers.launch import launch


@hydra.main(version_base="1.3", config_path="conf", config_name="launch")
def main(cfg: DictConfig) -> Any:  # noqa: ANN401 - what Hydra's sweepers take
    """Run the stages that the command line names."""
    return launch(cfg)


if __name__ == "__main__":
    command.run(main, __doc__)
