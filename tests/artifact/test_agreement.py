"""Audit, training, server, artifact and transform agree on every file: what one reads all read, with one answer."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from helpers import ROOT, Server
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from sagehound.artifact.archive import unpack
from sagehound.data.audit import inspect
from sagehound.inference.decode import BadPhoto
from sagehound.inference.preprocessing import prepare
from sagehound.serving.predictor import Predictor
from sagehound.serving.sessions import Execution

pillow_heif.register_heif_opener()

KINDS: dict[str, tuple[str, str, dict[str, object]]] = {  # Pillow's name, the content type, options
    "jpeg": ("JPEG", "image/jpeg", {}),
    "progressive": ("JPEG", "image/jpeg", {"progressive": True}),
    "png": ("PNG", "image/png", {}),
    "webp": ("WEBP", "image/webp", {}),
    "gif": ("GIF", "image/gif", {}),
    "bmp": ("BMP", "image/bmp", {}),
    "tiff": ("TIFF", "image/tiff", {}),
    "lzw": ("TIFF", "image/tiff", {"compression": "tiff_lzw"}),
    "jpeg in tiff": ("TIFF", "image/tiff", {"compression": "jpeg"}),
    "heic": ("HEIF", "image/heic", {}),
    "avif": ("AVIF", "image/avif", {"speed": 10}),
    "jp2": ("JPEG2000", "image/jp2", {}),
    "j2k": ("JPEG2000", "application/x-image", {"no_jp2": True}),
}
MODES = ("RGB", "L", "1", "LA", "P", "RGBA", "CMYK", "I;16")
NAMES = ("plain", "=cmd|' C calc'!A0", "+1", "@x", "-x", "new\nline", 'quo"te, comma', "tab\t", os.fsdecode(b"caf\xe9"))
SUFFIXES = (".jpg", ".PNG", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".HEIF", ".avif", ".jp2", ".j2k")


def encoded(kind: str, mode: str, orientation: int, size: tuple[int, int]) -> bytes:
    """A photo, in RGB where the format has no such mode; empty where it cannot be written at all."""
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[::-1])
    colours = np.stack([ramp, ramp[::-1], np.roll(ramp, 7, 1)], 2).astype(np.uint8)
    photo = Image.fromarray(colours)
    photo = Image.fromarray((ramp * 257).astype(np.uint16)) if mode == "I;16" else photo.convert(mode)
    name, _, options = KINDS[kind]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image in (photo, Image.fromarray(colours)):
        file = io.BytesIO()
        try:
            image.save(file, name, exif=exif.tobytes(), **options)  # type: ignore[arg-type]
        except (OSError, ValueError, KeyError, RuntimeError):
            continue
        return file.getvalue()
    raise AssertionError(f"{kind} holds no RGB photo")


@dataclass(frozen=True)
class File:
    """A file as hypothesis draws it."""

    kind: str
    mode: str
    orientation: int
    large: bool  # enough for a JPEG to be decoded smaller
    mutation: str
    at: float  # where in the file
    name: str
    suffix: str

    def content(self) -> bytes:
        """The file's bytes."""
        whole = encoded(self.kind, self.mode, self.orientation, (750, 600) if self.large else (64, 48))
        at = int(self.at * len(whole))
        video = b"\0\0\0\x18ftypmp42" + np.random.default_rng(at).bytes(1000) + 200 * b"\xff\xda\0\x08"
        return {
            "none": whole,
            "video behind": whole + video,
            "photo behind": whole + encoded("jpeg", "RGB", 1, (32, 24)),
            "truncated": whole[:at],
            "last byte missing": whole[:-1],
            "nothing": b"",
            "zeros": whole[:at] + bytes(len(whole[at : at + 40])) + whole[at + 40 :],
            "changed": whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :],
            "cut out": whole[:at] + whole[at + 5 :],
        }[self.mutation]


MUTATIONS = ("none", "video behind", "photo behind", "truncated", "last byte missing", "zeros", "changed", "cut out")
files = st.builds(
    File,
    kind=st.sampled_from(list(KINDS)),
    mode=st.sampled_from(MODES),
    orientation=st.integers(1, 8),
    large=st.sampled_from([False, False, False, True]),
    mutation=st.sampled_from([*MUTATIONS, "nothing"]),
    at=st.floats(0, 1, exclude_max=True),
    name=st.sampled_from(NAMES),
    suffix=st.sampled_from(SUFFIXES),
)


class Readers:
    """All that read photos, over one folder."""

    def __init__(self, run: Path, server: Server, folder: Path) -> None:
        self.run, self.server, self.root = run, server, folder / "photos"
        self.unpacked = folder / "model"
        self.root.mkdir()
        unpack(run / "model.tar.gz", self.unpacked)
        self.predictor = Predictor(self.unpacked, Execution(threads=1))
        self.responses: dict[str, dict[str, float] | None] = {}  # by file; None where it was refused

    def at_once(self, file: File) -> None:
        """Put a file into the folder; audit, training and server agree on it."""
        content = file.content()
        name = f"{file.name}{len(self.responses)}{file.suffix}"
        path = self.root / name
        path.write_bytes(content)
        bad = inspect(path).bad
        try:
            probabilities = self.predictor([prepare(path, self.predictor.card.preprocessing)])[0]
            trained = dict(zip(self.predictor.card.classes, probabilities.tolist(), strict=True))
        except BadPhoto:
            trained = None
        assert (trained is None) == bool(bad), bad or "training refuses what the audit reads"
        response = self.server.invoke(content, KINDS[file.kind][1])
        assert (response.status == 200) == (not bad), (bad, response.data)
        self.responses[name] = _by_label(response.json()) if response.status == 200 else None
        assert _same(self.responses[name], trained)

    def transform(self) -> None:
        """Read the whole folder by transform, which agrees with the server."""
        out = self.root.with_name("out.jsonl")
        command = [sys.executable, str(ROOT / "launch.py"), "transform=local", f"model={self.run}"]
        command += [f"data.root={self.root}", "transform.format=jsonl", f"transform.output={out}"]
        done = subprocess.run(command, cwd=out.parent, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        self._compare({line["file"]: line for line in map(json.loads, out.read_text().splitlines())}, "transform")

    def artifact(self) -> None:
        """Read the whole folder by the code that travels in the artifact, which agrees with the server."""
        command = [sys.executable, "-P", "-c", _BY_ARTIFACT, str(self.unpacked), str(self.root)]
        done = subprocess.run(command, env=_WITHOUT_SOURCE, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        self._compare(json.loads(done.stdout), "inference.py")

    def _compare(self, lines: dict[str, dict[str, object]], reader: str) -> None:
        assert set(lines) == set(self.responses)
        for name, line in lines.items():
            said = None if "error" in line else _by_label(line)
            assert _same(said, self.responses[name]), f"{reader}, {name}: {line} instead of {self.responses[name]}"


_WITHOUT_SOURCE = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
_BY_ARTIFACT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1] + "/code")
import inference
assert inference.model_fn.__code__.co_filename.startswith(sys.argv[1])
model, found = inference.model_fn(sys.argv[1]), {}
for path in Path(sys.argv[2]).iterdir():
    body = json.dumps({"instances": [__import__("base64").b64encode(path.read_bytes()).decode()]})
    prediction = inference.predict_fn(inference.input_fn(body, "application/json"), model)
    found[path.name] = json.loads(inference.output_fn(prediction, "application/json"))["predictions"][0]
print(json.dumps(found))
"""


def _by_label(said: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    return {str(best["label"]): best["probability"] for best in said["top"]}


def _same(one: dict[str, float] | None, other: dict[str, float] | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(abs(one[label] - other[label]) < 1e-3 for label in one)


@pytest.fixture
def readers(run: Path, server: Server, tmp_path: Path) -> Readers:
    return Readers(run, server, tmp_path)


@pytest.mark.slow
def test_all_formats_and_mutations_are_read_or_refused_alike(readers: Readers) -> None:
    """Every format in every mode that it has, every orientation, mutation, name and suffix at least once."""
    rest: list[Callable[[int], object]] = [
        lambda i: MUTATIONS[i % len(MUTATIONS)] if i >= len(KINDS) else "none",
        lambda i: (i * 0.37) % 1,
        lambda i: NAMES[i % len(NAMES)],
        lambda i: SUFFIXES[i % len(SUFFIXES)],
    ]
    for i in range(len(KINDS) * len(MODES)):
        kind, mode = list(KINDS)[i % len(KINDS)], MODES[i // len(KINDS)]
        readers.at_once(File(kind, mode, i % 8 + 1, False, *(draw(i) for draw in rest)))  # type: ignore[arg-type]
    read = [name for name, response in readers.responses.items() if response]
    assert len(read) > len(KINDS) * 3
    assert list(readers.responses.values())[: len(KINDS)].count(None) == 0, "each format is read"
    readers.transform()


@pytest.mark.slow
def test_all_readers_agree_on_every_file(readers: Readers) -> None:
    @settings(
        max_examples=int(os.environ.get("SAGEHOUND_FILES", "400")),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(file=files)
    def agree(file: File) -> None:
        readers.at_once(file)

    agree()
    readers.transform()
    readers.artifact()
