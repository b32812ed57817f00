"""The command `sagehound`: its subcommands, its one-line errors, its completion."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT, Command, small

from sagehound.cli.main import COMMANDS
from sagehound.storage.atomic import read_csv
from sagehound.system.project import checkout, conf_folder


@pytest.mark.slow
def test_help_lists_the_commands(sagehound: Command) -> None:
    shown = sagehound("--help").stdout
    assert sagehound().stdout == shown
    for command, about in COMMANDS.items():
        assert f"  {command:<9}{about}" in shown


def test_version_matches_the_package(sagehound: Command) -> None:
    import sagehound as package

    done = sagehound("--version")
    assert (done.returncode, done.stdout) == (0, f"sagehound {package.__version__}\n")
    assert f'version = "{package.__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["trian"], ["serve", "--help"], ["serve"]])
def test_commands_without_a_config_import_neither_hydra_nor_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['sagehound', *{arguments!r}]\n"
        "from sagehound.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(sorted({'hydra', 'omegaconf', 'numpy', 'torch', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("[]\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "trian: no such command (did you mean train?); choose from train, launch, serve, predict, audit"),
        (["train", "logger=[csv,mlfow]"], "logger=[mlfow]: no such option (did you mean mlflow?); choose from csv,"),
        (
            ["train", "trainer.limit_train_batches=2"],
            "; trainer.extra.limit_train_batches if Lightning",
        ),
        (["--hlep"], "--hlep: no such command (did you mean --help?)"),
        (["predict", "model", "a.jpg", "top_k=3"], "top_k=3: did you mean --top-k 3?"),
        (["predict", "model", "a.jpg", "--topk", "3"], "--topk 3 (did you mean --top-k N?)"),
        (["serve", "deploy.prt=0", "a"], "deploy.prt: no such key (did you mean deploy.port?)"),
        (["--lr", "1"], "--lr: no such command; choose from"),
        (["data=demo", "data.root=a b"], "which command? Did you mean sagehound train data=demo 'data.root=a b'?"),
        (["serve"], "which model? sagehound serve MODEL [key=value ...]"),
        (["serve", "deploy.port=0"], "which model? sagehound serve MODEL"),
        (["serve", "a", "deploy.prt=0"], "deploy.prt: no such key (did you mean deploy.port?)"),
        (["predict", "model"], "required: PHOTO; sagehound predict TARGET PHOTO... [--top-k N]"),
        (["predict", "model", "a.jpg", "--top-k", "0"], "--top-k 0: must be at least 1"),
        (["predict", "model", "a.jpg", "--top", "x"], "invalid int value: 'x'"),
        (["audit", "data=folder"], "data.root is missing: give data.root=PATH of your photos"),
        (["doctor"], "data.root is missing: give data.root=PATH of your photos"),
        (["train", "head.dropou=1"], "head.dropou: no such key (did you mean head.dropout?)"),
        (
            ["train", "deploy=local"],
            "deploy=local: settings of sagehound launch; did you mean sagehound launch deploy=local?",
        ),
        (["train", "trainer=sagemaker"], "did you mean sagehound launch trainer=sagemaker?"),
    ],
)
def test_a_wrong_command_ends_in_one_line_and_code_2(
    sagehound: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = sagehound(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sagehound: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("outputs/*/*"))


@pytest.mark.slow
def test_scripts_of_a_checkout_match_the_command(sagehound: Command, command: Command) -> None:
    given = ["data=demo", "optimizer.lr=0.1", "--cfg", "job"]
    assert sagehound("train", *given).stdout == command(*given).stdout
    assert "sagehound train data=demo" in sagehound("train", "--help").stdout
    assert "sagehound launch deploy=local" in sagehound("launch", "--help").stdout
    assert "python " not in sagehound("launch", "--help").stdout


def test_audit_writes_its_files_without_training(sagehound: Command, photos: Path, tmp_path: Path) -> None:
    done = sagehound("audit", "data=folder", f"data.root={photos}", "hydra.run.dir=checked")
    assert done.returncode == 0, done.stderr
    assert "Amber" in done.stdout
    assert {"audit.json", "splits.csv"} <= {p.name for p in (tmp_path / "checked").iterdir()}
    assert not (tmp_path / "checked/metrics.json").exists()


@pytest.mark.slow
def test_options_in_the_users_config_dir(sagehound: Command, tmp_path: Path) -> None:
    """Options in --config-dir are used and listed, and are not mistaken for photo folders."""
    for name, text in {"data/mine": "name: folder\nroot: somewhere\n", "optimizer/slow": "lr: 0.00123\n"}.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"own/{name}.yaml").write_text(text)
    for flag in (["--config-dir", "own"], ["--config-dir=own"], ["-cd", "own"]):
        done = sagehound("train", *flag, "data=mine", "optimizer=slow", "--cfg", "job")
        assert done.returncode == 0, done.stderr
        assert "root: somewhere" in done.stdout
        assert "lr: 0.00123" in done.stdout
    shown = sagehound("train", "--config-dir", "own", "--help").stdout
    assert "data: demo, dogimages, folder, mine" in shown
    missing = sagehound("train", "--config-dir", "nowhere", "data=demo")
    assert missing.returncode == 2
    assert "nowhere' not found" in missing.stderr


def test_predict(sagehound: Command, run: Path, run_photos: Path, tmp_path: Path) -> None:
    """Each photo gets a line; an unreadable photo gets its reason, and the others are still predicted."""
    tested = [row for row in read_csv(run / "predictions.csv") if row["split"] == "test"]
    done = sagehound("predict", str(run), *(str(run_photos / row["file"]) for row in tested))
    assert (done.returncode, done.stderr) == (0, "")
    for line, row in zip(done.stdout.splitlines(), tested, strict=True):
        assert line.startswith(f"{run_photos / row['file']}: {row['prediction']}, probability ")
    slate = run_photos / "test/002.Slate/000.jpg"
    (tmp_path / "bad.jpg").write_text("no photo")
    (tmp_path / "folder").mkdir()
    given = ["bad.jpg", "nowhere.jpg", "folder", str(slate)]
    done = sagehound("predict", str(run / "model.tar.gz"), *given, "--top-k", "2")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "sagehound: bad.jpg: not an image file",
        "sagehound: nowhere.jpg: No such file or directory",
        "sagehound: folder: no photo lies in this folder or below",
    ]
    (line,) = done.stdout.splitlines()
    probability = line.partition("probability ")[2].partition(";")[0]
    assert f"; top 2: Slate {probability}, " in line


def test_predict_takes_a_registered_model(sagehound: Command, run: Path, run_photos: Path, tmp_path: Path) -> None:
    registered = sagehound("launch", "registry=local", f"model={run}", "registry.approved=true", "data=demo")
    assert registered.returncode == 0, registered.stderr
    photo = str(next((run_photos / "test").rglob("*.jpg")))
    done = sagehound("predict", "registry:sagehound", photo)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == sagehound("predict", str(run), photo).stdout.strip()
    address = sagehound("predict", "127.0.0.1:8080", photo)
    assert (address.returncode, "did you mean http://127.0.0.1:8080?" in address.stderr) == (2, True)


def test_predict_names_a_missing_model(sagehound: Command) -> None:
    done = sagehound("predict", "nowhere", "a.jpg")
    assert done.returncode == 3
    assert "no such run or file" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_predict_imports_no_torch(run: Path, photo: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo)
    code = (
        "import sys; from sagehound.cli.main import main\n"
        f"sys.argv = ['sagehound', 'predict', {str(run)!r}, {str(tmp_path / 'a.jpg')!r}]\n"
        "main()\n"
        "assert not {'torch', 'timm', 'lightning', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


COMPLETIONS: list[tuple[str, set[str], set[str]]] = [  # a line, completions that are offered, and some that are not
    ("sagehound ", {*COMMANDS, "--version"}, {"data="}),
    ("sagehound tr", {"train"}, {"launch"}),
    ("sagehound train back", {"backbone="}, {"deploy="}),
    ("sagehound train data=demo backbone=res", {"backbone=resnet18", "backbone=resnet34"}, {"backbone=mobilenetv2"}),
    ("sagehound launch deploy=local deploy.p", {"deploy.port="}, set()),
    ("sagehound serve run deploy.p", {"deploy.port="}, set()),
    ("sagehound serve run deploy.port=1 ", {"backbone=", "deploy."}, {"resnet18"}),
    ("sagehound train data=demo ", {"backbone=", "trainer."}, {"data=demo"}),
    ("train/bin/sagehound audit data=fo", {"data=folder"}, set()),
    ("sagehound doctor data.ex", {"data.exclude="}, set()),
    ("sagehound serve ", set(), {"backbone=", "data="}),
    ("sagehound predict run ph", set(), {"data="}),
]


@pytest.mark.parametrize(("line", "offered", "others"), COMPLETIONS)
def test_completion_of_subcommands(
    sagehound: Command, monkeypatch: pytest.MonkeyPatch, line: str, offered: set[str], others: set[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    for query in (["-sc", "query=bash"], ["-sc", "query=fish"]):
        done = sagehound(*query)
        assert (done.returncode, done.stderr) == (0, "")
        assert offered <= set(done.stdout.split())
        assert not others & set(done.stdout.split())


@pytest.fixture
def complete(program: Path, tmp_path: Path) -> Callable[[str, str], list[str]]:
    """The completions that bash offers for a line, after the install command."""
    if not (bash := shutil.which("bash")):
        pytest.skip("no bash")

    def offered(install: str, line: str) -> list[str]:
        words = shlex.split(line) + ([""] if line.endswith(" ") else [])
        script = (
            f'eval "$({install})"\n'
            f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_CWORD={len(words) - 1}\n"
            "complete -p sagehound >&2 || exit 1\n"
            "hydra_bash_completion\n"
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        environment = os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            [bash, "--norc", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "-F hydra_bash_completion sagehound" in done.stderr
        return done.stdout.split()

    return offered


@pytest.mark.slow
@pytest.mark.parametrize("install", ["sagehound -sc install=bash", "sagehound train -sc install=bash"])
def test_bash_completes(complete: Callable[[str, str], list[str]], install: str) -> None:
    assert complete(install, "sagehound pre") == ["predict"]
    assert complete(install, "sagehound train optimizer.weight") == ["optimizer.weight_decay="]
    assert complete(install, "sagehound train finetune=") == ["finetune=full", "finetune=gradual", "finetune=head"]


def test_the_configs_are_found_in_a_checkout() -> None:
    assert checkout() == ROOT
    assert conf_folder() == ROOT / "conf"


@pytest.mark.slow
def test_a_stopped_run_names_the_command_that_resumes_it(
    program: Path, photos: Path, weights: Path, tmp_path: Path
) -> None:
    given = [*small(photos, weights), "finetune=full", "trainer.max_epochs=100000", "hydra.run.dir=run"]
    process = subprocess.Popen(
        [program, "train", *given], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    process.terminate()
    errors = process.communicate(timeout=60)[1]
    assert errors == f"sagehound: stopped by SIGTERM; resume with: sagehound train resume={tmp_path / 'run'}\n"
