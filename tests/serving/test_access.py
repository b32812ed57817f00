"""Who reaches the server and what they may do there: attacks on real processes."""

import base64
import datetime
import ipaddress
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from helpers import Command, Server

from sagehound.artifact.archive import unpack
from sagehound.errors import ConfigError, InputError
from sagehound.serving.access import RateLimit, access_of
from sagehound_launchers import endpoint_client

TOKEN = "0123456789abcdef0123"


def code(answer: Any) -> str:  # noqa: ANN401 - urllib3's
    return str(answer.json()["error"]["code"])


def load(server: Server, url: str, **headers: str) -> Any:  # noqa: ANN401 - urllib3's
    body = json.dumps({"model_name": "another", "url": url}).encode()
    return server.request("POST", "/models", body, Content_Type="application/json", **headers)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
    cert = made.add_extension(names, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, plain))
    locked = key.private_bytes(pem, form, serialization.BestAvailableEncryption(b"secret"))
    (folder / "locked.pem").write_bytes(locked)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def guarded(run: Path, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for other machines, with TLS, a token and a folder of models."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "models").mkdir()
    (folder / "models/out").symlink_to(run)
    unpack(run / "model.tar.gz", folder / "models/inside")
    cert, key = certificate
    own = ["deploy.host=0.0.0.0", f"deploy.cert={cert}", f"deploy.key={key}", "deploy.allowed_hosts=[dogs.example.com]"]
    server = Server(folder, f"model={run}", *own, f"deploy.model_root={folder}/models", SAGEHOUND_TOKEN=TOKEN)
    yield server
    assert server.stop() == (143, ""), "with token and TLS there is no warning"


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "x@localhost", "", "127.0.0.1.evil.example"]
)
def test_a_page_that_points_its_name_here_is_refused(server: Server, run: Path, host: str) -> None:
    for answer in (server.request("GET", "/models", Host=host), load(server, str(run), Host=host)):
        assert (answer.status, code(answer)) == (421, "unknown_host")
    assert server.request("DELETE", "/models/run", Host=host).status == 421
    assert server.request("GET", "/ping", Host=host).status == 200, "health checks know no name"


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80", "dogs.localhost", "LOCALHOST.", "10.0.0.7"])
def test_names_and_addresses_of_this_machine_are_accepted(server: Server, host: str) -> None:
    assert server.request("GET", "/models", Host=host).status == 200


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: evil.example\r\n"])
def test_none_or_two_hosts_are_refused(server: Server, hosts: bytes) -> None:
    with server.connect() as client:
        client.sendall(b"GET /models HTTP/1.1\r\n" + hosts + b"\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_no_page_may_be_framed_or_run_foreign_scripts(server: Server) -> None:
    for path in (
        "/",
        "/docs",
        "/ping",
        "/models",
        "/nowhere",
        "/page/page.js",
        "/openapi.json",
        "/docs/oauth2-redirect",
    ):
        headers = server.request("GET", path).headers
        assert headers["X-Frame-Options"] == "DENY", path
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy, path
        assert "frame-ancestors 'none'" in policy, path
        assert "script-src 'unsafe-inline'" not in policy, path
        assert headers["X-Content-Type-Options"] == "nosniff", path


def test_without_the_token_only_ping_is_answered(guarded: Server, photo: bytes) -> None:
    assert guarded.url.startswith("https://")
    assert guarded.request("GET", "/ping").status == 200
    for path in ("/", "/docs", "/models", "/models/run", "/metrics", "/openapi.json", "/nowhere"):
        answer = guarded.request("GET", path)
        assert (answer.status, code(answer)) == (401, "unauthorized"), path
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    wrong = [TOKEN[:-1], TOKEN + "0", "", "ü" * 20, TOKEN.upper()]
    for token in wrong:
        assert guarded.invoke(photo, Authorization=f"Bearer {token}".encode().decode("latin-1")).status == 401
    for header in (TOKEN, f"Digest {TOKEN}", "Basic !", "Basic " + base64.b64encode(TOKEN.encode()).decode()):
        assert guarded.invoke(photo, Authorization=header).status == 401
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    for header in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
        assert guarded.invoke(photo, Authorization=header).json()["label"] == "Slate"


def test_a_client_sends_the_token_of_its_environment(
    guarded: Server, certificate: tuple[Path, Path], photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def label() -> str:
        ask = endpoint_client.connect(guarded.url, clients=1, timeout=30)
        return str(ask(photo, "image/jpeg")["label"])

    with pytest.raises(InputError, match="certificate"):
        label()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with pytest.raises(InputError, match=r"send the server's token.*401"):
        label()
    monkeypatch.setenv("SAGEHOUND_TOKEN", TOKEN)
    assert label() == "Slate"


def test_models_come_from_their_folder_only(guarded: Server, run: Path, tmp_path: Path) -> None:
    secret = tmp_path / "model.json"
    secret.write_text('{"format": "the secret", "password": "hunter2"}')
    messages = set()
    for url in (
        str(run),
        "models/out",
        str(tmp_path),
        "/etc/passwd",
        "/nowhere",
        "models/../..",
        "~root",
        "file:///etc",
    ):
        answer = load(guarded, url, Authorization=f"Bearer {TOKEN}")
        assert (answer.status, code(answer)) == (403, "forbidden"), url
        messages.add(answer.json()["error"]["message"])
    assert len(messages) == 1, "whether a file exists is not told"
    bearer = f"Bearer {TOKEN}"
    assert load(guarded, "models/inside", Authorization=bearer).status == 200
    assert guarded.request("DELETE", "/models/another", Authorization=bearer).status == 200
    assert guarded.request("GET", "/models", Authorization=bearer, Host="dogs.example.com").status == 200
    assert guarded.request("GET", "/models", Authorization=bearer, Host="cats.example.com").status == 421


@pytest.mark.parametrize("content", ['{"format": "hunter2"}', "hunter2", '{"format": 1, "hunter2": 1}',
    '{"format": 1, "classes": ["a", "b"], "preprocessing": {"size": ["hunter2", 2]}}',
    '{"format": 1, "classes": ["a", "b"], "preprocessing": {"size": [2, 2], "resize": 2, "interpolation": "hunter2", '
    '"mean": [1, 1, 1], "std": [1, 1, 1]}}'])  # fmt: skip
def test_the_content_of_a_refused_file_is_not_told(server: Server, tmp_path: Path, content: str) -> None:
    (tmp_path / "model.json").write_text(content)
    answer = load(server, str(tmp_path))
    assert answer.status == 400
    assert "hunter2" not in answer.json()["error"]["message"]


@pytest.mark.slow
def test_an_open_server_warns_in_a_line_and_lets_nobody_change_its_models(
    run: Path, tmp_path: Path, photo: bytes
) -> None:
    server = Server(tmp_path, f"model={run}", "deploy.host=0.0.0.0", "deploy.rate=2")
    assert [server.invoke(photo).status for _ in range(4)] == [200] * 4
    answer = server.invoke(photo)
    assert (answer.status, code(answer), answer.headers["Retry-After"]) == (429, "too_many_requests", "1")
    assert server.request("GET", "/ping").status == 200
    subprocess.run(["sleep", "2"], check=True)
    for answer in (load(server, str(run)), server.request("DELETE", "/models/run")):
        assert (answer.status, code(answer)) == (403, "forbidden")
    assert server.request("GET", "/models").json()["models"][0]["modelUrl"] == "run", "not the whole path"
    stopped, errors = server.stop()
    assert stopped == 143
    assert len(errors.splitlines()) == 1
    assert errors.startswith("warning: other machines reach this server, which has no token")
    assert "deploy.cert" in errors


def test_a_proxy_on_this_machine_makes_nobody_an_administrator(server: Server, run: Path) -> None:
    assert load(server, str(run), X_Forwarded_For="203.0.113.7").status == 403
    assert server.request("DELETE", "/models/run", Forwarded="for=203.0.113.7").status == 403


def test_the_token_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert access_of("::1", token_file=str(tmp_path / "token")).is_authorised(f"Bearer {TOKEN}")
    for token in ("short", "with a blank in it", ""):
        with pytest.raises(ConfigError, match="a token has 16 characters or more"):
            access_of("::1", token=token)


def test_clients_have_a_rate_each_and_a_network_is_one() -> None:
    limit = RateLimit(0.5)
    assert [limit.wait("10.0.0.1"), limit.wait("10.0.0.1"), limit.wait("10.0.0.2")] == [0, 2, 0]
    assert [limit.wait("2001:db8::1"), limit.wait("2001:db8::2"), limit.wait("2001:db8:0:1::1")] == [0, 2, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("deploy.cert=/nowhere.pem", "deploy.cert=/nowhere.pem cannot be used (No such file or directory)"),
        ("deploy.cert={cert}", "deploy.cert={cert} cannot be used"),
        ("deploy.cert={cert} deploy.key={cert.parent}/locked.pem", "without a password"),
        ("deploy.key={cert}", "give deploy.cert too"),
        ("deploy.token=short", "openssl rand -hex 24"),
        ("deploy.token_file=/nowhere", "deploy.token_file=/nowhere cannot be read: No such file or directory"),
        ("deploy.model_root=/nowhere", "deploy.model_root=/nowhere: no such folder"),
    ],
)
def test_what_is_wrong_with_a_setting_is_one_line(
    launch: Command, run: Path, certificate: tuple[Path, Path], setting: str, reason: str
) -> None:
    own = setting.format(cert=certificate[0]).split()
    done = launch("deploy=local", "deploy.port=0", f"model={run}", *own, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert reason.format(cert=certificate[0]) in done.stderr
