"""The doctor of a set of photos: lists what is probably wrong with them."""
