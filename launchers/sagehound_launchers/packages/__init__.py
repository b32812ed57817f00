"""The registry of models: packages with metrics, lineage and approval; in a folder, or SageMaker's."""
