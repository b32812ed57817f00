"""From the artifact to answers. Nothing in here imports torch but inference.py, which travels in the artifact."""
