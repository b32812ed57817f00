"""Amazon SageMaker: requests as plain dicts, and functions that send them."""
