"""Hydra's own conformance suites for a launcher.

They give tasks that are Python functions of this process, which no training job can run. So the launcher runs them here
(remote=false): the suites test its Hydra part, the folders, configs, overrides, numbers and results
of jobs, which the remote way shares line for line.
"""

import logging
from collections.abc import Iterator

import pytest

pytest.importorskip("hydra.test_utils.launcher_common_tests")

from hydra import version
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)

from hydra_plugins.sagehound.sagemaker_launcher import SageMakerLauncher

HERE = ["hydra.launcher.remote=false"]
NAME = "sagehound_sagemaker"

pytestmark = [
    pytest.mark.filterwarnings("ignore:Future Hydra versions"),
    pytest.mark.filterwarnings("ignore::hydra.errors.Hydra14MigrationWarning"),
]


@pytest.fixture(autouse=True)
def _as_the_suites_expect(hydra_restore_singletons: object) -> Iterator[None]:
    """Set the version_base that their programs rely on, and remove log handlers that write to their deleted folders."""
    version.setbase("1.1")
    handlers = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = handlers


def test_hydra_finds_the_launcher() -> None:
    assert SageMakerLauncher.__name__ in [x.__name__ for x in Plugins.instance().discover(Launcher)]


@pytest.mark.parametrize(("launcher_name", "overrides"), [(NAME, HERE)])
class TestLauncher(LauncherTestSuite): ...


@pytest.mark.parametrize(("launcher_name", "overrides"), [(NAME, [*HERE, "hydra.sweeper.max_batch_size=2"])])
class TestBatches(BatchedSweeperTestSuite): ...


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({}, ["-m", "hydra/launcher=sagehound_sagemaker", "hydra.launcher.remote=false"])],
)
class TestIntegration(IntegrationTestSuite): ...
