"""config.pbtxt and labels.txt in the archive, with which NVIDIA's Triton serves model.onnx."""

import re
import subprocess
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from sagehound.artifact import triton
from sagehound.artifact.archive import Card, opened
from sagehound.errors import SagehoundError

DOCS = Path(__file__).parents[2] / "docs/model.md"


@pytest.fixture
def repository(run: Path, tmp_path: Path) -> Path:
    """A model repository, made by the lines of the documentation."""
    (lines,) = re.findall(r"```\n(mkdir -p models.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "model.tar.gz").symlink_to(run / "model.tar.gz")
    subprocess.run(["sh", "-ec", lines], cwd=tmp_path, check=True)
    return tmp_path / "models"


def test_the_documented_lines_make_a_model_repository(repository: Path, run: Path) -> None:
    files = {file.relative_to(repository).as_posix() for file in repository.rglob("*") if file.is_file()}
    assert files == {"dogs/config.pbtxt", "dogs/labels.txt", "dogs/1/model.onnx"}
    with opened(run) as folder:
        classes = Card.read(folder).classes
    assert (repository / "dogs/labels.txt").read_text().splitlines() == classes
    text = (repository / "dogs/config.pbtxt").read_text()
    assert '\ndefault_model_filename: "model.onnx"\nmax_batch_size: 32\n' in text
    assert re.findall(r"dims: \[ (.*) \]", text) == ["160, 160, 3", "3", "1"]
    assert text.endswith("dynamic_batching { }\n")


def test_tritons_own_schema_reads_it_as_the_network_is(repository: Path) -> None:
    schema: Any = pytest.importorskip(  # 2.41 reads protobuf as old as smdebug wants, the newest does not
        "tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]", exc_type=ImportError
    )
    from google.protobuf import text_format

    config = text_format.Parse((repository / "dogs/config.pbtxt").read_text(), schema.ModelConfig())
    session = onnxruntime.InferenceSession(repository / "dogs/1" / config.default_model_filename)
    kinds = {schema.TYPE_UINT8: "tensor(uint8)", schema.TYPE_FP32: "tensor(float)"}
    for tensors, actual in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [t.name for t in tensors] == [a.name for a in actual]
        for tensor, of_network in zip(tensors, actual, strict=True):
            shape = list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)
            assert ["batch", *shape] == of_network.shape
            assert kinds[tensor.data_type] == of_network.type
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 32)
    assert config.HasField("dynamic_batching")
    assert config.output[0].label_filename == "labels.txt"


def test_a_network_that_triton_cannot_batch_is_refused() -> None:
    fixed = onnx.helper.make_tensor_value_info("photos", onnx.TensorProto.UINT8, [1, 8, 8, 3])
    graph = onnx.helper.make_graph([], "made", [fixed], [])
    with pytest.raises(SagehoundError, match=r"photos of model\.onnx has another shape"):
        triton.config(onnx.helper.make_model(graph))


def test_a_class_is_one_line_whatever_its_name() -> None:
    assert triton.labels(["Chow chow", "two\nlines", "Épagneul"]) == "Chow chow\ntwo lines\nÉpagneul\n"
