"""Tensor operations that know nothing of cameras, files or models."""
