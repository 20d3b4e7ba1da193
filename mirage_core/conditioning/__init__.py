"""What the denoiser is told beside the noise: segments, side input, branch files."""
