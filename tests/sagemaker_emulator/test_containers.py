"""Containers: a literal /opt/ml where Linux allows it, and a folder that stands for it elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from emulator_helpers import BUCKET, Client, client, content, ended, job, log_of, members, processes, until

from sagemaker_emulator.processes import namespaces
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

literal = pytest.mark.skipif(bool(namespaces.refusal()), reason=f"no namespaces: {namespaces.refusal()}")
TRAINING_IMAGE = "763104351884.dkr.ecr.us-west-2.amazonaws.com/pytorch-training:2.6.0-cpu-py312"
# a script as AWS's samples have it: with /opt/ml written into it
SCRIPT = """
import json, sys
names = json.load(open("/opt/ml/input/config/hyperparameters.json"))
open("/opt/ml/model/names", "w").write(" ".join(sorted(names)))
print(sys.argv[1])
"""


def start(sm: Client, name: str, *command: str, image: str = "anything", **more: Client) -> None:
    request = job(name, "", **more)
    request["AlgorithmSpecification"] = {
        "TrainingImage": image,
        "TrainingInputMode": "File",
        "ContainerEntrypoint": list(command),
    }
    sm.create_training_job(**request)


@literal
def test_opt_ml_is_literal_and_each_job_has_its_own(emulator: Emulator, sm: Client, s3: Client) -> None:
    before = set(Path("/opt").iterdir())
    for name in ("one", "two"):
        hyperparameters = {name: "1"}
        start(sm, name, "python", "-c", SCRIPT, "/opt/ml/code", hyperparameters=hyperparameters)
    for name in ("one", "two"):
        assert ended(sm, name)["TrainingJobStatus"] == "Completed"
        assert members(content(s3, f"out/{name}/output/model.tar.gz")) == {"names": f"code {name}".encode()}
        assert log_of(emulator, name) == ["/opt/ml/code"]
    assert set(Path("/opt").iterdir()) == before, "this machine's /opt is as it was"


@literal
def test_what_a_job_has_started_ends_with_it(sm: Client, tmp_path: Path) -> None:
    """Also in a session of its own, which a signal to the process group does not reach."""
    marker = {"MARKER": str(tmp_path)}
    start(sm, "leaves-one", "sh", "-c", "setsid sleep 600 & sleep 0.5", Environment=marker)
    until(lambda: len(processes(str(tmp_path))), lambda count: count >= 2)
    assert ended(sm, "leaves-one")["TrainingJobStatus"] == "Completed"
    assert not processes(str(tmp_path))


@literal
def test_a_job_sees_its_own_processes_only(emulator: Emulator, sm: Client) -> None:
    code = "import os; print(len([p for p in os.listdir('/proc') if p.isdigit()]))"
    start(sm, "alone", "python", "-c", code)
    assert ended(sm, "alone")["TrainingJobStatus"] == "Completed"
    assert int(log_of(emulator, "alone")[0]) <= 2


@literal
def test_an_instance_is_named_as_at_aws(emulator: Emulator, sm: Client) -> None:
    """Scripts save only where the current host is algo-1; this machine's own names are known too."""
    code = (
        "import json, socket; here = json.load(open('/opt/ml/input/config/resourceconfig.json'))\n"
        "print(here['current_host'], here['hosts'], socket.gethostbyname('algo-1'), socket.gethostbyname('localhost'))"
    )
    before = Path("/etc/hosts").read_text()
    start(sm, "named", "python", "-c", code)
    assert ended(sm, "named")["TrainingJobStatus"] == "Completed"
    assert log_of(emulator, "named") == ["algo-1 ['algo-1'] 127.0.0.1 127.0.0.1"]
    assert Path("/etc/hosts").read_text() == before


def test_a_command_that_does_not_exist_is_named(sm: Client) -> None:
    start(sm, "none", "/opt/ml/code/none.sh")
    reason = ended(sm, "none")["FailureReason"]
    assert reason.startswith("ClientError: the container could not be started: /opt/ml/code/none.sh: ")


@pytest.mark.parametrize("image", [TRAINING_IMAGE, "another"])
def test_a_shell_of_the_system_finds_the_python_of_the_image(tmp_path: Path, image: str) -> None:
    """SageMaker's SDK 3 and its FrameworkProcessor start scripts by /bin/bash, which call python3.

    For an image without a Python, the emulator's own comes before that of the system.
    """
    other = tmp_path / "environment/bin"
    other.mkdir(parents=True)
    (other / "python3").symlink_to(sys.executable)
    python = other / "python3" if image == TRAINING_IMAGE else Path(sys.executable).parent / "python3"
    images = {"pytorch-training": {"python": [str(other / "python3")]}}
    with Emulator(tmp_path / "emulator", settings=Settings(images=images)) as emulator:
        sm, s3 = client(emulator, "sagemaker"), client(emulator, "s3")
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        start(sm, "which", "/bin/bash", "-c", "command -v python3", image=image)
        assert ended(sm, "which")["TrainingJobStatus"] == "Completed"
        assert log_of(emulator, "which") == [str(python)]


def test_without_namespaces_opt_ml_is_replaced_in_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Emulator(tmp_path, settings=Settings(namespaces=False)) as emulator:
        sm, s3 = client(emulator, "sagemaker"), client(emulator, "s3")
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        start(sm, "mapped", "sh", "-c", "echo $0 > /opt/ml/model/m", "/opt/ml/code")
        assert ended(sm, "mapped")["TrainingJobStatus"] == "Completed"
        (text,) = members(content(s3, "out/mapped/output/model.tar.gz")).values()
        assert text.decode().startswith(str(tmp_path))
    assert capsys.readouterr().err == "", "it was asked for"


def test_a_system_without_unshare_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    namespaces.refusal.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with Emulator(tmp_path / "e"):
            pass
    namespaces.refusal.cache_clear()
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no command unshare" in line
    assert "/opt/ml is replaced by a folder's path" in line


@literal
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="root is needed to become another user")
def test_another_user_than_root(tmp_path: Path) -> None:
    """By a user namespace, where the system allows one."""
    folder = tmp_path / "job" / "ml"
    folder.mkdir(parents=True)
    (folder / "here").write_text("x")
    for parent in (folder, *folder.parents):
        if parent != Path("/") and parent.stat().st_uid == 0:
            parent.chmod(0o777)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    allowed = subprocess.run([*as_nobody, "unshare", "--user", "--map-root-user", "true"], capture_output=True)
    if allowed.returncode:
        pytest.skip("this system has no user namespaces")
    program = "from sagemaker_emulator.processes import namespaces as n; from pathlib import Path; import subprocess\n"
    program += f"subprocess.run(n.wrap(['ls', '/opt/ml'], Path({str(folder)!r})), check=True)"
    done = subprocess.run(
        [*as_nobody, "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(namespaces.__file__).parents[2])},
    )
    if "Permission denied" in done.stderr:
        pytest.skip("the interpreter is out of reach of other users")
    assert done.stdout == "here\n", done.stderr
