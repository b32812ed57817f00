"""Leads SageMaker's SDKs to the emulator, in any Python whose PYTHONPATH has this folder. Standard library only."""
