"""The commands of images for the emulator, as a Dockerfile installs them, and of the debugger's rules."""

import sys

COMMANDS = {
    verb: [sys.executable, "-P", "-c", f"from sagehound.cli.sagemaker_container import {verb}; {verb}()"]
    for verb in ("train", "serve")
}
RULES = [sys.executable, "-P", "-m", "sagehound.debugger.follow"]
CLARIFY = {"process": [sys.executable, "-P", "-m", "sagehound.bias.clarify_job"]}  # the image of SageMaker Clarify
