"""Predictions of photos as lines of CSV or JSON, and as text."""

import json

from sagehound.inference import spreadsheet
from sagehound.inference.formats import PhotoResult

CSV_HEADER = b"file,prediction,probability,top,error\n"  # top: class:probability, most probable first


def json_line(name: str, result: PhotoResult) -> bytes:
    """A line of JSON: the file, and an endpoint's response."""
    return json.dumps({"file": name, **result}, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def csv_line(name: str, result: PhotoResult) -> bytes:
    """A line of CSV with the columns of CSV_HEADER."""
    top = ";".join(f"{best['label']}:{best['probability']:.4f}" for best in result.get("top", []))
    reason = result["error"]["message"] if "error" in result else ""
    return spreadsheet.csv_line([name, result.get("label"), result.get("probability"), top, reason])


def in_words(name: str, result: PhotoResult) -> str:
    """A line for people."""
    answer = (
        result["error"]["message"]
        if "error" in result
        else f"{result['label']}, probability {result['probability']:.1%}"
    )
    return f"{name}: {answer}".encode(errors="backslashreplace").decode()
