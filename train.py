"""`python train.py ...` in a checkout runs `sagehound train ...`; see src/sagehound/cli/train_command.py."""

from sagehound.cli.main import script

if __name__ == "__main__":
    script("train")
