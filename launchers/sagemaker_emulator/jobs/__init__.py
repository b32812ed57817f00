"""Training, tuning, processing and transform jobs."""
