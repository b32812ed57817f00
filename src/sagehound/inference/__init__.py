"""From a photo's bytes to a response: this folder travels in model.tar.gz and imports nothing else of Sagehound.

Only network.py and handler.py import torch.
"""
