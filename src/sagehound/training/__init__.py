"""One run: Lightning's Trainer, its callbacks, and checkpoints."""
