"""The memory of a scene: points that carry latent tokens."""
