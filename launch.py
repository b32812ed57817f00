"""`python launch.py ...` in a checkout is `sagehound launch ...`; src/sagehound/cli/launch.py shows examples."""

from sagehound.cli.main import script

if __name__ == "__main__":
    script("launch")
