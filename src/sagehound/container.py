"""The commands that SageMaker runs inside a container: `serve`."""

import os
from pathlib import Path

from sagehound.command import clear_errors
from sagehound.errors import ConfigError


def serve() -> None:
    """Answer requests with the model under /opt/ml/model; under SAGEMAKER_MULTI_MODEL=true, with those it is told of.

    SAGEMAKER_BIND_TO_PORT is the port, 8080 without it. SAGEHOUND_OPT_ML stands for /opt/ml where that is elsewhere.

    Raises:
        SystemExit: with an exit code, after one line that says why.
    """
    with clear_errors():
        from sagehound.serving.server import serve

        model = Path(os.environ.get("SAGEHOUND_OPT_ML", "/opt/ml"), "model")
        several = os.environ.get("SAGEMAKER_MULTI_MODEL", "").lower() == "true"
        port = os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")
        if not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"SAGEMAKER_BIND_TO_PORT={port}: give a number up to 65535")
        serve({} if several else {"model": str(model)}, "0.0.0.0", int(port))
