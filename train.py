"""Fine-tune an image classifier: python train.py backbone=resnet34 trainer=local."""

import hydra
from omegaconf import DictConfig

from sagehound import command


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Train what the command line says."""
    command.train(cfg)


if __name__ == "__main__":
    command.run(main)
