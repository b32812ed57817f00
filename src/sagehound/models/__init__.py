"""The network: backbone, head, what is fine-tuned, and cached features."""
