"""The commands of Sagehound's image for the emulator, as the Dockerfile installs them, and of the debugger's rules."""

import sys

COMMANDS = {
    verb: [sys.executable, "-P", "-c", f"from sagehound.cli.sagemaker_container import {verb}; {verb}()"]
    for verb in ("train", "serve")
}
RULES = [sys.executable, "-P", "-m", "sagehound.debugger.follow"]
