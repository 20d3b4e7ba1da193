"""Formats of weights files, readable without diffusers."""
