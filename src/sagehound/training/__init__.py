"""One run: Lightning's Trainer, its callbacks, and what they leave."""
