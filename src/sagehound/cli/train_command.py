"""Fine-tune an image classifier on a folder of photos, and test it.

sagehound train data=demo backbone=efficientnet_lite0 trainer=local     generated photos; needs no download
sagehound train data=folder data.root=PATH backbone=resnet34            your photos: split/class/photo or class/photo
sagehound train data=folder data.root=PATH finetune=full augment=strong trainer.ema=0.99
sagehound train -m backbone=resnet18,resnet34 optimizer.lr=0.001,0.003  a sweep
sagehound train resume=last                                             resume the newest run
tensorboard --logdir outputs                                            curves, images, hyperparameters
"""

from typing import Any

import hydra
from omegaconf import DictConfig

from sagehound.cli import command
from sagehound.config import register
from sagehound.system.project import conf_folder


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")
def main(cfg: DictConfig) -> Any:  # noqa: ANN401 - what Hydra's sweepers take
    """Train with the composed config."""
    return command.train(cfg)


def run() -> None:
    """`sagehound train` with ``sys.argv``."""
    register()  # a program may have registered launch.py's schema before
    command.run(main, __doc__ or "")
