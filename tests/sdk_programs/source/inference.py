"""A model of a few numbers: the larger input is the label."""

import json
import os


def model_fn(model_dir):
    with open(os.path.join(model_dir, "model.json")) as file:
        return json.load(file)


def input_fn(body, content_type):
    assert content_type == "application/json", content_type
    return json.loads(body)


def predict_fn(rows, model):
    return [row.index(max(row)) for row in rows]


def output_fn(labels, accept):
    return json.dumps({"labels": labels})
