"""Compares the photos that reach a model with photos of its training's valid split. Imports no torch."""
