"""``python -m sagehound.cli``: the command `sagehound` where it is not on the PATH."""

from sagehound.cli.main import main

if __name__ == "__main__":
    main("python -m sagehound.cli")
