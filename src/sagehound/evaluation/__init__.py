"""Predictions and metrics of a trained model, and where they are logged and plotted."""
