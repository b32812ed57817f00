"""`python launch.py ...` in a checkout runs `sagehound launch ...`; see src/sagehound/cli/launch_command.py."""

from sagehound.cli.main import script

if __name__ == "__main__":
    script("launch")
