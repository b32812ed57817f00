"""Measures of bias between groups of photos, under the names and by the formulas of Amazon SageMaker Clarify."""
