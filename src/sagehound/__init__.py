"""Fine-tune an image classifier on your own folder of photos."""
