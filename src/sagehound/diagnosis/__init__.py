"""What the features of photos show about the photos and their labels. Needs numpy and scipy only."""
