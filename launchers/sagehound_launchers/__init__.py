"""What `python launch.py` does besides training: searches, SageMaker, and stages such as deploy."""
