"""Judging a model or a memory as the paper judged its own, with one command for each table."""
