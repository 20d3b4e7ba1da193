"""Judging a camera move from the memory alone, before any sampling."""
