"""Cameras, depth, and the steps between pixels, latent cells and points of the scene."""
