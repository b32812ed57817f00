"""A run's folder, and the trained model in it."""
