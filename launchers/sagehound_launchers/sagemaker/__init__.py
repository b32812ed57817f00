"""Everything on Amazon SageMaker: requests as plain dicts, and what sends them."""
