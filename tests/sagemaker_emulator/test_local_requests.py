"""Requests that pages of other sites could send through a browser are refused; names of this machine are accepted."""

import json

import pytest
import urllib3
from emulator_helpers import BUCKET, Client, keys

from sagemaker_emulator.server import Emulator

SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-west-2/s3/aws4_request, Signature=0"}
LIST = {"X-Amz-Target": "SageMaker.ListModels"}


def ask(emulator: Emulator, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
    port = emulator.url.rpartition(":")[2]
    named = {k: v.replace("PORT", port) for k, v in headers.items()}
    answer = urllib3.request(method, f"{emulator.url}{path}", headers=named, body=body, retries=False)
    return answer.status, answer.data


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {"Host": "evil.example:PORT"} | LIST),
        ("POST", "/", {"Host": "evil.example:PORT"} | LIST),
        ("GET", "/?list-type=2", {"Host": f"{BUCKET}.evil.example:PORT"}),
        ("GET", "/in/a.csv", {"Host": f"{BUCKET}.evil.example:PORT"} | SIGNED),
        ("GET", f"/{BUCKET}/in/a.csv", {"Host": "127.0.0.1.evil.example"} | SIGNED),
        ("GET", f"/{BUCKET}/in/a.csv", {"Host": "localhost.evil.example"} | SIGNED),
        ("GET", "/_emulator/requests", {"Host": "evil.example"}),
        ("POST", "/endpoints/e/invocations", {"Host": "evil.example"}),
        ("GET", "/moto-api/data.json", {"Host": "evil.example"}),
        ("GET", "/", {"Host": "["}),
        ("GET", "/", {"Host": "evil.example@127.0.0.1"}),
        ("GET", "/", {"Host": ""}),
        ("POST", "/", {"Origin": "http://["} | LIST),
        ("POST", "/", {"Origin": "null"} | LIST),
    ],
)
def test_another_name_is_refused(
    emulator: Emulator, s3: Client, method: str, path: str, headers: dict[str, str]
) -> None:
    s3.put_object(Bucket=BUCKET, Key="in/a.csv", Body=b"secret")
    status, answer = ask(emulator, method, path, headers, b"{}")
    assert status == 403
    assert json.loads(answer)["__type"] == "AccessDeniedException"
    assert b"secret" not in answer


@pytest.mark.parametrize(
    "host", ["127.0.0.1:PORT", "localhost:PORT", "LOCALHOST", "[::1]:PORT", "127.0.0.2", "a.localhost"]
)
def test_names_of_this_machine_are_accepted(emulator: Emulator, host: str) -> None:
    assert ask(emulator, "POST", "/", {"Host": host} | LIST, b"{}") == (200, b'{"Models": []}')


def test_operations_need_post(emulator: Emulator) -> None:
    status, answer = ask(emulator, "GET", "/", LIST)
    assert (status, json.loads(answer)["__type"]) == (405, "UnknownOperationException")


def test_a_bucket_may_be_named_by_the_host(emulator: Emulator, s3: Client) -> None:
    headers = {"Host": f"{BUCKET}.localhost:PORT"} | SIGNED
    assert ask(emulator, "PUT", "/in/a%20b", headers, b"one")[0] == 200
    assert ask(emulator, "PUT", "/tagged", headers | {"x-amz-tagging": "a=b"}, b"two")[0] == 200, "by way of moto"
    assert ask(emulator, "GET", "/in/a%20b", headers) == (200, b"one")
    assert ask(emulator, "GET", "/tagged", headers) == (200, b"two")
    status, listing = ask(emulator, "GET", "/?list-type=2&prefix=in/", headers)
    assert (status, b"<Key>in/a b</Key>" in listing) == (200, True)
    assert keys(s3, "") == ["in/a b", "tagged"]
    journal = (emulator.folder / "s3/journal.jsonl").read_text()
    assert '"key": "in/a b"' in journal, "it survives a restart"
    assert '"key": "tagged"' in journal
    assert ask(emulator, "DELETE", "/tagged", headers)[0] == 204
    assert keys(s3, "") == ["in/a b"]
