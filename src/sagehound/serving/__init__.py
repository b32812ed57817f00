"""Sagehound's own server and batch predictions, from model.onnx; nothing in here imports torch."""
