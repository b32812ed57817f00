"""`python train.py ...` in a checkout is `sagehound train ...`; src/sagehound/cli/train.py shows examples."""

from sagehound.cli.main import script

if __name__ == "__main__":
    script("train")
