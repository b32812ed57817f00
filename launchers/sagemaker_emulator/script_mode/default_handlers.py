"""The functions of AWS's toolkits sagemaker-inference and sagemaker-pytorch-inference where a script has none.

A content type must be exactly one of the four, without parameters such as a charset, as in the toolkits.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

JSON, CSV, NPY, NPZ = "application/json", "text/csv", "application/x-npy", "application/x-npz"
TEXTS = (JSON, CSV)  # their bodies are text, all others bytes
Data = Any  # what the functions of a script take and return


class Unsupported(Exception):
    """No default function reads or writes this content type."""


def default_input(body: Data, content_type: str) -> Data:
    """A request's body as an array, or as a tensor if the script has imported torch.

    Numbers of JSON and CSV become float32, those of NumPy's format keep their type. A CSV whose columns are of
    different types is refused, as the toolkits do.

    Raises:
        Unsupported: the content type is another.
        TypeError, ValueError: the body has no rectangle of numbers.
    """
    array = _array(body, content_type)
    torch = sys.modules.get("torch")
    if torch is None:
        return array.astype("float32") if content_type in TEXTS else array
    tensor = torch.tensor(array, dtype=torch.float32) if content_type in TEXTS else torch.from_numpy(array)
    return tensor.to(_device(torch))


def _array(body: Data, content_type: str) -> Data:
    import numpy as np

    if content_type == JSON:
        return np.array(json.loads(body))
    if content_type == CSV:
        return np.genfromtxt(io.StringIO(body), dtype=None, delimiter=",")
    if content_type == NPY:
        return np.load(io.BytesIO(body), allow_pickle=False)
    if content_type == NPZ:
        import scipy.sparse

        return scipy.sparse.load_npz(io.BytesIO(body))
    raise Unsupported(f"content type {content_type}: the default input_fn reads {JSON}, {CSV}, {NPY} and {NPZ}")


def default_predict(data: Data, model: Data) -> Data:
    """The model's output: torch's module is called in evaluation mode, on a GPU if there is one; others by predict."""
    torch = sys.modules.get("torch")
    if torch and isinstance(model, torch.nn.Module):
        device = _device(torch)
        with torch.no_grad():
            return model.to(device).eval()(data.to(device) if hasattr(data, "to") else data)
    return model.predict(data)


def _device(torch: Data) -> Data:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_output(prediction: Data, accept: str) -> tuple[Data, str]:
    """A prediction in the first of the accepted types that is JSON, CSV or NumPy's format.

    Args:
        prediction: a tensor becomes a list of Python's numbers, so NumPy's format has float64 then.
        accept: types with commas between them; a type with a parameter is not known.

    Raises:
        Unsupported: it is none of these.
        ValueError: a CSV of an array with more than two dimensions, or none.
    """
    torch = sys.modules.get("torch")
    if torch and isinstance(prediction, torch.Tensor):
        prediction = prediction.detach().cpu().numpy().tolist()
    for kind in accept.replace(" ", "").split(","):
        if kind in _WRITERS:
            return _WRITERS[kind](prediction), kind
    raise Unsupported(f"accept {accept}: the default output_fn writes {JSON}, {CSV} and {NPY}")


def _json(prediction: Data) -> str:
    def plain(value: Data) -> Data:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")

    return json.dumps(prediction, default=plain)


def _csv(prediction: Data) -> str:
    import numpy as np

    text = io.StringIO()
    np.savetxt(text, prediction, delimiter=",", fmt="%s")
    return text.getvalue()


def _npy(prediction: Data) -> bytes:
    import numpy as np

    content = io.BytesIO()
    np.save(content, prediction)
    return content.getvalue()


_WRITERS = {JSON: _json, CSV: _csv, NPY: _npy}
