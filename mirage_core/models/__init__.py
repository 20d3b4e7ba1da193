"""Wan2.2 with the side branch on diffusers: transformer, codec, text, weights."""
