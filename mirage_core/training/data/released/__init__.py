"""Samples of the released code."""
