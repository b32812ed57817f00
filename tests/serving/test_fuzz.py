"""Whatever a client sends: never a 500, and the server lives on."""

import base64
import io
import json
import random
import string
from concurrent.futures import ThreadPoolExecutor

import pillow_heif
import pytest
import schemathesis
from helpers import Server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from sagehound.inference.request_body import PHOTO

pytestmark = pytest.mark.slow

REFUSED = {400, 406, 413, 415}


def seeds() -> list[bytes]:
    """A small photo in every format that is read, and in several modes."""
    pillow_heif.register_heif_opener()
    image = Image.effect_noise((40, 30), 60).convert("RGB")
    made = []
    for kind, mode, options in (
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "L", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("WEBP", "RGB", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("HEIF", "RGB", {}),
        ("AVIF", "RGB", {"speed": 10}),
        ("JPEG2000", "RGB", {}),
    ):
        file = io.BytesIO()
        image.convert(mode).save(file, kind, **options)
        made.append(file.getvalue())
    return made


def mutated(photo: bytes, rng: random.Random) -> bytes:
    """A photo with a few bytes changed, cut out, put in or left off, mostly near its head."""
    changed = bytearray(photo)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(min(len(changed), rng.choice([200, 10**9])) or 1)
        way = rng.randrange(5)
        if way == 0:
            changed[at : at + 1] = rng.randbytes(1)
        elif way == 1:
            changed[at : at + rng.randrange(1, 20)] = b""
        elif way == 2:
            changed[at:at] = rng.randbytes(rng.randrange(1, 20))
        elif way == 3:
            changed[at : at + 4] = b"\xff\xff\xff\x7f"
        else:
            del changed[at:]
    return bytes(changed)


def test_thousands_of_mutated_photos(server: Server) -> None:
    rng = random.Random(0)
    photos = [mutated(photo, rng) for photo in seeds() * 400]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda p: server.invoke(p).status, photos))
    assert set(statuses) <= {200} | REFUSED
    assert statuses.count(200) > 100
    assert statuses.count(400) > 1000
    assert server.invoke(seeds()[0]).status == 200


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=2000) | st.text(max_size=200).map(str.encode),
    content_type=st.sampled_from(
        ["image/jpeg", "image/png", "application/x-image", "application/json", "application/jsonlines"]
    )
    | st.text(string.printable.strip(), max_size=30),
    accept=st.sampled_from(["*/*", "application/json", "text/csv", "application/jsonlines"])
    | st.text(string.printable.strip(), max_size=60),
)
def test_any_body_under_any_header(server: Server, body: bytes, content_type: str, accept: str) -> None:
    assert server.invoke(body, content_type, Accept=accept).status in {200} | REFUSED


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20) | st.just("instances"),
        lambda inner: (
            st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5) | st.just("b64"), inner, max_size=4)
        ),
    ),
    inside=st.booleans(),
)
def test_any_json(server: Server, content: object, inside: bool) -> None:
    body = json.dumps({"instances": [content, base64.b64encode(seeds()[0]).decode()]} if inside else content).encode()
    answer = server.invoke(body, "application/json")
    assert answer.status in {200} | REFUSED
    if inside:
        assert answer.json()["predictions"][1]["label"], "the good one is answered beside whatever else there is"


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_the_server_keeps_to_its_own_description(server: Server, mode: schemathesis.GenerationMode) -> None:
    """Every address, with data as described or not: statuses, types and bodies of answers are those described."""
    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
    photo = seeds()[0]
    tested = []
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        def conforms(case: schemathesis.Case) -> None:
            if mode is schemathesis.GenerationMode.POSITIVE and case.media_type in PHOTO:
                case.body = photo
            response = case.call(base_url=server.url)
            assert response.status_code < 500
            case.validate_response(response, checks=checks)

        try:
            conforms()
            tested.append(operation.label)
        except Unsatisfiable:
            assert mode is schemathesis.GenerationMode.NEGATIVE, "an address without data takes no wrong data"
    assert "POST /invocations" in tested
    assert "POST /models" in tested
