"""``python -m sagehound.cli`` runs the command `sagehound` when it is not on the PATH."""

from sagehound.cli.main import main

if __name__ == "__main__":
    main("python -m sagehound.cli")
