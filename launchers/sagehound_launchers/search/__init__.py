"""Searches for hyperparameters: grids and samplers, on this machine."""
