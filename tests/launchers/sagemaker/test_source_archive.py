"""The source archive of real git repositories: what is in it, what never is, and that it is the same each time."""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from helpers import ROOT

from sagehound.errors import InputError
from sagehound_launchers.sagemaker import source_archive
from sagehound_launchers.sagemaker.source_archive import SourceArchive, make

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")

KEY = "AKIA" + "Q7" * 8  # in two, so that this file is no find of its own


def git(root: Path, *arguments: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, env=environment)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one commit."""
    root = tmp_path / "project"
    write(root, "train.py", "print('hello')\n")
    write(root, "conf/train.yaml", "lr: 0.1\n")
    write(root, ".gitignore", "/outputs/\n*.log\n")
    git(tmp_path, "init", "--quiet", str(root))
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def write(root: Path, file: str, content: str | bytes) -> Path:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def files(found: SourceArchive) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(found.content), mode="r:gz") as tar:
        entries = tar.getmembers()
        assert all(e.isreg() and e.mtime == 0 and e.uid == 0 and e.mode in (0o644, 0o755) for e in entries)
        assert [e.name for e in entries] == sorted(e.name for e in entries)
        return {e.name: tar.extractfile(e).read() for e in entries}  # type: ignore[union-attr]


def test_what_git_tracks_is_sent_as_it_lies_on_disk(project: Path) -> None:
    write(project, "conf/train.yaml", "lr: 0.2\n")  # not committed
    write(project, "outputs/model.bin", "ignored")
    write(project, "a.log", "ignored")
    write(project, "conf/new.yaml", "nobody added it")
    found = make(project)
    assert files(found) == {
        ".gitignore": b"/outputs/\n*.log\n",
        "conf/train.yaml": b"lr: 0.2\n",
        "train.py": b"print('hello')\n",
    }
    assert found.files == 3
    assert found.notes == ("conf/new.yaml: not sent, as git does not track it; `git add` what the job needs",)


def test_a_file_that_is_gone_and_not_committed_is_left_out(project: Path) -> None:
    (project / "conf/train.yaml").unlink()
    found = make(project)
    assert set(files(found)) == {".gitignore", "train.py"}
    assert found.notes == ("conf/train.yaml: gone, or cannot be read, and not sent",)


def test_the_same_content_gives_the_same_bytes(project: Path, tmp_path: Path) -> None:
    first = make(project)
    again = tmp_path / "again"
    git(tmp_path, "clone", "--quiet", str(project), str(again))
    os.utime(again / "train.py", (1, 1))
    (again / "train.py").chmod(0o600)
    assert make(again) == first
    assert first.content[4:8] == bytes(4), "gzip's own time"
    assert hashlib.sha256(gzip.decompress(first.content)).hexdigest() == first.digest
    write(again, "train.py", "print('bye')\n")
    assert make(again).digest != first.digest


def test_what_is_executable_stays_so(project: Path) -> None:
    write(project, "run.sh", "#!/bin/sh\n").chmod(0o755)
    git(project, "add", "run.sh")
    with tarfile.open(fileobj=io.BytesIO(make(project).content)) as tar:
        assert {e.name: e.mode for e in tar}["run.sh"] == 0o755


def test_a_project_below_the_top_of_a_repository(project: Path) -> None:
    write(project, "inner/train.py", "x")
    git(project, "add", ".")
    assert set(files(make(project / "inner"))) == {"train.py"}


def test_odd_names_come_through(project: Path) -> None:
    names = ["ünï cödé.py", 'quote".py', "new\nline.py", "d" * 120 + "/" + "n" * 120 + ".py"]
    for name in names:
        write(project, name, name)
    git(project, "add", ".")
    found = files(make(project))
    assert {n: found[n] for n in names} == {n: n.encode() for n in names}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (f"key = '{KEY}'", "an AWS access key"),
        ("x: " + "ASIA" + "Z3" * 8, "an AWS access key"),
        ("AWS_SECRET_ACCESS_" + 'KEY = "' + "aB3/" * 10 + '"', "an AWS secret key"),
        ('"aws_secret_access_' + 'key": "' + "aB3+" * 10 + '"', "an AWS secret key"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE", "a private key"),
        ("-----BEGIN " + "PRIVATE KEY-----\nMIIE", "a private key"),
        ("-----BEGIN PGP " + "PRIVATE KEY BLOCK-----", "a private key"),
        ("token=" + "ghp_" + "a1B2" * 9, "a GitHub token"),
        ("github_pat_" + "a1B2" * 15, "a GitHub token"),
        ("HF_TOKEN=" + "hf_" + "aB" * 17, "a Hugging Face token"),
        ("xoxb" + "-123456789012-abcdefGH", "a Slack token"),
        ("sk-ant-" + "api03-" + "aB3_" * 20, "a model service's key"),
    ],
)
def test_a_secret_is_refused_by_file_and_line_and_not_repeated(project: Path, content: str, what: str) -> None:
    write(project, "conf/keys.yaml", f"# one\n# two\n{content}\n")
    git(project, "add", ".")
    with pytest.raises(InputError, match=rf"would carry secrets: conf/keys.yaml:3 \({what}\); take them out") as raised:
        make(project)
    assert content[-12:] not in str(raised.value)


def test_a_secret_in_utf_16_is_found(project: Path) -> None:
    write(project, "keys.txt", f"a\nb {KEY}".encode("utf-16"))
    git(project, "add", ".")
    with pytest.raises(InputError, match=r"keys.txt:2 \(an AWS access key\)"):
        make(project)


def test_a_secret_that_is_not_sent_is_no_concern(project: Path) -> None:
    write(project, "outputs/keys.txt", KEY)
    write(project, ".env", "not added")
    assert make(project).files == 3


@pytest.mark.parametrize(
    "content",
    [
        "AKIAIOSFODNN7" + "EXAMPLE",  # of AWS's documentation
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY",
        "aws_secret_access_key = os.environ['AWS_SECRET_ACCESS_KEY']",
        "-----BEGIN CERTIFICATE-----\n-----BEGIN PUBLIC KEY-----",
        "sk-learn-contrib-and-friends, hf_transfer, ghp_short, task-management-and-some-other-long-words-in-a-row",
        "3AKIA" + "Q7" * 8,
    ],
)
def test_what_only_looks_like_a_secret_is_sent(project: Path, content: str) -> None:
    write(project, "README.md", content)
    git(project, "add", ".")
    assert make(project).files == 4


@pytest.mark.parametrize(
    "name",
    [".env", ".env.local", "conf/server.pem", "id_rsa", "deep/ID_ED25519", ".aws/credentials", ".netrc", "a.p12"],
)
def test_files_that_are_secrets_by_their_names_are_refused(project: Path, name: str) -> None:
    write(project, name, "x")
    git(project, "add", "--force", name)
    with pytest.raises(InputError, match=rf"would carry secrets: {name} \(by its name\)"):
        make(project)


def test_an_example_of_an_environment_is_no_secret(project: Path) -> None:
    write(project, ".env.example", "KEY=")
    git(project, "add", ".")
    assert ".env.example" in files(make(project))


def test_data_among_the_source_is_refused_by_name(project: Path) -> None:
    write(project, "weights.bin", bytes(source_archive.MOST))
    write(project, "video.mp4", bytes(3_000_000))
    git(project, "add", ".")
    with pytest.raises(
        InputError, match=r"would hold 53 MB, at most 50 are sent; the largest: weights.bin \(50.0 MB\), video.mp4"
    ):
        make(project)


def test_links_become_what_they_point_to(project: Path) -> None:
    (project / "alias.py").symlink_to("train.py")
    (project / "settings").symlink_to("conf")
    (project / "again").symlink_to(project / "conf/train.yaml")
    (project / "circle").symlink_to("circle")
    (project / "nowhere").symlink_to("nothing")
    git(project, "add", ".")
    found = make(project)
    sent = files(found)
    assert sent["alias.py"] == sent["train.py"]
    assert sent["settings/train.yaml"] == sent["again"] == sent["conf/train.yaml"]
    assert found.notes == ("circle, nowhere: gone, or cannot be read, and not sent",)


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret.txt", "conf/../../secret.txt", ".."])
def test_a_link_out_of_the_project_is_refused(project: Path, target: str) -> None:
    write(project.parent, "secret.txt", "x")
    (project / "link").symlink_to(target)
    git(project, "add", ".")
    with pytest.raises(InputError, match=r"^link is a link to /.*, outside of /.*: replace it by what it points to$"):
        make(project)


def test_a_link_to_what_is_not_tracked_brings_nothing_in(project: Path) -> None:
    write(project, "outputs/run.txt", "ignored")
    (project / "run.txt").symlink_to("outputs/run.txt")
    (project / "all").symlink_to("outputs")
    git(project, "add", ".")
    assert set(files(make(project))) == {".gitignore", "conf/train.yaml", "train.py"}


def test_a_submodule_is_noted(project: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(project), str(tmp_path / "other"))
    git(project, "submodule", "add", "--quiet", str(tmp_path / "other"), "third_party")
    found = make(project)
    assert not [f for f in files(found) if f.startswith("third_party")]
    assert found.notes == ("third_party: a submodule, and not sent",)


def test_a_folder_that_was_replaced_by_a_link_out_of_the_project_is_refused(project: Path) -> None:
    (project / "conf").rename(project.parent / "elsewhere")
    (project / "conf").symlink_to(project.parent / "elsewhere")
    with pytest.raises(InputError, match=r"^conf is a link to /.*/elsewhere, outside of /"):
        make(project)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("no repository", "git says 'fatal: not a git repository (or any of the parent directories): .git'"),
        ("nothing added", "git tracks nothing in "),
        ("no git", "git cannot be run (No such file or directory)"),
    ],
)
def test_without_git_the_parts_of_the_project_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    for file in (
        "train.py",
        "conf/a.yaml",
        "src/sagehound/a.py",
        "src/sagehound/__pycache__/a.pyc",
        "data/1.jpg",
        "b.py",
    ):
        write(tmp_path, file, file)
    write(tmp_path, "src/sagehound.egg-info/PKG-INFO", "made")
    write(tmp_path, "conf/.env", KEY)
    if how == "nothing added":
        git(tmp_path, "init", "--quiet")
    if how == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    found = make(tmp_path)
    assert set(files(found)) == {"train.py", "conf/a.yaml", "src/sagehound/a.py"}
    (note,) = found.notes
    assert note.startswith(reason)
    assert note.endswith(f": taken were {', '.join(source_archive.WITHOUT_GIT)}")


def test_without_git_secrets_and_links_are_refused_as_well(tmp_path: Path) -> None:
    write(tmp_path, "src/keys.py", KEY)
    with pytest.raises(InputError, match=r"src/keys.py:1 \(an AWS access key\)"):
        make(tmp_path)
    (tmp_path / "src/keys.py").unlink()
    (tmp_path / "conf").symlink_to("/etc")
    with pytest.raises(InputError, match="conf is a link to /etc, outside of"):
        make(tmp_path)


def test_options_of_the_users_own_are_added_and_replace_none(project: Path, tmp_path: Path) -> None:
    write(project, "conf/optimizer/sgd.yaml", "name: sgd")
    git(project, "add", ".")
    for name in ("sgd", "mine"):
        write(tmp_path, f"own/optimizer/{name}.yaml", "name: mine")
    sent = files(source_archive.make(project, own=[tmp_path / "own"]))
    assert sent["conf/optimizer/sgd.yaml"] == b"name: sgd"
    assert sent["conf/optimizer/mine.yaml"] == b"name: mine"
    write(tmp_path, "own/optimizer/mine.yaml", KEY)
    with pytest.raises(InputError, match=r"conf/optimizer/mine.yaml:1 \(an AWS access key\)"):
        source_archive.make(project, own=[tmp_path / "own"])


def test_an_empty_folder_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no project: run from the folder of train.py"):
        make(tmp_path)


def test_a_hook_does_not_send_another_repository(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    git(tmp_path, "init", "--quiet", str(other))
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert make(project).files == 3


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_this_project_can_be_sent() -> None:
    found = make(ROOT)
    assert {"train.py", "launch.py", "pyproject.toml", "src/sagehound/training/train.py"} <= set(files(found))
    assert len(found.content) < 5_000_000
