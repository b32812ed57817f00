"""What is done around training: the stages that `python launch.py` runs, here or on SageMaker."""
