"""Clips, data sets, and the pipelines that make them."""
