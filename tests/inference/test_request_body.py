import base64
import io
import json
from contextlib import suppress

import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sagehound.errors import InputError
from sagehound.inference.headers import kind_of
from sagehound.inference.request_body import RequestBody, UnsupportedContentType, photos_in

pillow_heif.register_heif_opener()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_a_photo_is_the_body_itself() -> None:
    assert photos_in(b"bytes", "image/jpeg") == RequestBody([b"bytes"], True, [None])
    assert photos_in(b"bytes", "Image/PNG; charset=binary") == RequestBody([b"bytes"], True, [None])
    assert photos_in(b"bytes", "application/x-image") == RequestBody([b"bytes"], True, [None])


def test_instances_are_photos_in_base64_and_a_bad_one_fails_alone() -> None:
    body = json.dumps({"instances": [b64(b"one"), {"b64": b64(b"two")}, 3, "no base64!", {"c": "x"}, None]})
    one, two, *bad = photos_in(body.encode(), "application/json").photos
    assert (one, two) == (b"one", b"two")
    assert all(isinstance(b, InputError) for b in bad)
    assert len(bad) == 4


def test_lines_are_instances_and_a_bad_one_fails_alone() -> None:
    body = f'"{b64(b"one")}"\n\n{{"b64": "{b64(b"two")}"}}\r\nnothing\n'.encode()
    one, two, bad = photos_in(body, "application/jsonlines").photos
    assert (one, two) == (b"one", b"two")
    assert isinstance(bad, InputError)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 9_000, "no JSON"),
        (b"[" * 100_000, "too many values"),
        (b'{"instances": [' + b"1," * 100_000 + b"1]}", "too many values"),
        (b"[]", "send {"),
        (b'{"instances": 1}', "send {"),
        (b'{"instances": []}', "0 photos: send 1 to 1,000"),
        (json.dumps({"instances": ["x"] * 1001}).encode(), "1001 photos"),
    ],
)
def test_a_body_that_holds_no_instances_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        photos_in(body, "application/json")


def test_a_million_lines_are_not_parsed() -> None:
    with pytest.raises(InputError, match="too many values or lines"):
        photos_in(b"1\n" * 1_000_000, "application/jsonlines")
    with pytest.raises(InputError, match="too many values or lines"):
        photos_in(b'{"b64":"","x":[' + b"{}," * 1_000_000 + b"{}]}", "application/jsonlines")


@pytest.mark.parametrize("content_type", ["", "text/plain", "image/svg+xml"])
def test_other_types_are_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedContentType, match="send a photo as image/jpeg"):
        photos_in(b"", content_type)


def form(*parts: bytes, boundary: bytes = b"xyz") -> bytes:
    """A multipart body; each part has its headers, an empty line and its content."""
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def file(head: bytes, content: bytes) -> bytes:
    """A part with a Content-Disposition."""
    return b"Content-Disposition: form-data; " + head + b"\r\n\r\n" + content


FORM = "multipart/form-data; boundary=xyz"


def test_one_file_of_a_form_is_a_single_photo_and_several_are_several() -> None:
    one = file(b'name="file"; filename="dog.jpg"', b"one\r\n--xy\r\n\xff")
    assert photos_in(form(one), FORM) == RequestBody([b"one\r\n--xy\r\n\xff"], True, ["dog.jpg"])
    field = file(b'name="note"', b"which breed?")
    unchosen = file(b'name="more"; filename=""', b"")
    several = photos_in(form(one, field, unchosen, file(b'name="a"; filename="cat.png"', b"")), FORM)
    assert several == RequestBody([b"one\r\n--xy\r\n\xff", b""], False, ["dog.jpg", "cat.png"])
    quoted = photos_in(
        b"preamble\r\n" + form(one, boundary=b"a b") + b"epilogue", 'Multipart/Form-Data; boundary="a b"'
    )
    assert quoted.files == ["dog.jpg"]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b'filename="caf\xc3\xa9 \xf0\x9f\x90\xb6.jpg"', "café 🐶.jpg"),  # browsers
        (b"filename*=utf-8''caf%C3%A9.jpg", "café.jpg"),  # requests
        (b'filename="a\\"b.jpg"', 'a"b.jpg'),  # curl
        (b'filename="caf\xe9.jpg"', "caf\ufffd.jpg"),  # an old client in another encoding
        (b"filename=dog.jpg; x=y", "dog.jpg"),
        (b'filename="' + b"x" * 1000 + b'"', "x" * 255),
    ],
)
def test_a_file_keeps_the_name_that_the_client_gave(head: bytes, name: str) -> None:
    assert photos_in(form(file(b'name="f"; ' + head, b"photo")), FORM).files == [name]


def test_a_part_without_a_name_is_a_file_by_its_type_and_may_be_in_base64() -> None:
    typed = b'content-disposition: form-data; name="f"\r\nContent-Type: image/png\r\n\r\nphoto'
    wrapped = b"Content-Transfer-Encoding: base64\r\nContent-Type: image/png\r\n\r\n" + base64.encodebytes(b"x" * 100)
    assert photos_in(form(typed, wrapped), FORM) == RequestBody([b"photo", b"x" * 100], False, [None, None])


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (form(), FORM, "no file"),
        (form(file(b'name="note"', b"which breed?")), FORM, "no file"),
        (form(file(b'name="f"; filename="a"', b"x"))[:-6], FORM, "ends too early"),
        (form(file(b'name="f"; filename="a"', b"x")), "multipart/form-data; boundary=abc", "ends too early"),
        (form(b"no headers"), FORM, "headers have no end"),
        (form(b"X: " + b"y" * 5_000 + b"\r\n\r\nx"), FORM, "too many headers, or too long"),
        (form(file(b'name="f"' + b";" * 50, b"x")), FORM, "too many headers, or too long"),
        (form(), FORM + ";" * 50, "content type is too long"),
        (form(file(b'name="f"; filename="a"', b"x")), "multipart/form-data", "without a boundary"),
        (form(file(b'name="f"; filename="a"', b"x")), "multipart/form-data; boundary=", "without a boundary"),
        (form(*[file(b'name="f"; filename="a"', b"x")] * 1001), FORM, "1001 photos"),
        (b"\r\n--xyz" * 100_000, FORM, "too many parts"),
        (form(b"Content-Transfer-Encoding: quoted-printable\r\nContent-Type: image/png\r\n\r\nx"), FORM, "as it is"),
        (b"", FORM, "ends too early"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused(body: bytes, content_type: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        photos_in(body, content_type)


PIECES = (
    *(b"--xyz", b"\r\n", b"--", b"; filename*=a'\"", b"Content-Disposition: form-data", b"\xff"),
    *(b"filename*0=", b": ", b"=?u?q?=ff?=", b"\0"),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_any_form_is_read_or_refused(pieces: bytes) -> None:
    with suppress(InputError):
        photos_in(b"--xyz\r\n" + pieces + b"\r\n--xyz--", FORM)
    with suppress(InputError):
        photos_in(form(file(b'name="f"; ' + pieces, b"x")), "multipart/form-data" + pieces.decode("latin-1"))


@pytest.mark.parametrize("content_type", ["", None, "application/x-www-form-urlencoded", "; charset=utf-8"])
def test_without_a_type_the_first_bytes_decide(content_type: str | None) -> None:
    for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "HEIF", "JPEG2000"):
        made = io.BytesIO()
        Image.new("RGB", (16, 16)).save(made, name)
        assert kind_of(made.getvalue()) == name
        assert photos_in(made.getvalue(), content_type) == RequestBody([made.getvalue()], True, [None])
    assert photos_in(b' \n{"instances": ["eA=="]}', content_type) == RequestBody([b"x"], False, [None])
    for body in (b"hello", b"", b"<html>", b"RIFF0000WAVE", b"0000ftypmp42", b"\xff\xd8"):
        with pytest.raises(UnsupportedContentType, match="does not begin like a photo or JSON"):
            photos_in(body, content_type)


def test_base64_may_have_line_ends_and_be_a_data_url() -> None:
    wrapped = base64.encodebytes(b"photo" * 100).decode()
    url = "data:image/jpeg;base64," + b64(b"photo")
    body = json.dumps({"instances": [wrapped, {"b64": url}, url.replace("data", "DATA"), "data:text/plain,photo"]})
    *good, bad = photos_in(body.encode(), "application/json").photos
    assert good == [b"photo" * 100, b"photo", b"photo"]
    assert "data URL that is not in base64" in str(bad)
    by_hand = f'{{"instances": ["{base64.encodebytes(b"photo" * 200_000).decode()}"]}}'  # the line ends are not escaped
    assert photos_in(by_hand.encode(), "application/json").photos == [b"photo" * 200_000]
