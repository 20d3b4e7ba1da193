"""Masks of what must not be remembered: things that move, and sky."""
