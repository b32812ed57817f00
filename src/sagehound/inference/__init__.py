"""From a photo's bytes to a response. This package is copied into model.tar.gz, and imports nothing else of Sagehound.

Only network.py and handler.py import torch.
"""
