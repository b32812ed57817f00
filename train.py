"""Fine-tune an image classifier on a folder of photos, test it, and write down what it is worth.

python train.py data=demo backbone=efficientnet_lite0 trainer=local     drawn photos; needs no download
python train.py data=folder data.root=PATH backbone=resnet34            your split/class/photo or class/photo folders
python train.py data=folder data.root=PATH finetune=full augment=strong trainer.ema=0.99
python train.py -m backbone=resnet18,resnet34 optimizer.lr=0.001,0.003  a sweep
python train.py resume=last                                             go on with the newest run
tensorboard --logdir outputs                                            curves, images, hyperparameters
"""

from sagehound import starting  # noqa: F401 - before the other imports, for Ctrl-C

# isort: split
from typing import Any

import hydra
from omegaconf import DictConfig

from sagehound import command


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> Any:  # noqa: ANN401 - what Hydra's sweepers take
    """Train what the command line says."""
    return command.train(cfg)


if __name__ == "__main__":
    command.run(main, __doc__)
