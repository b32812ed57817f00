"""The server and batch predictions, with model.onnx. Imports no torch."""
