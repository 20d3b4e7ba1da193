"""The condition of the denoiser: segments of clean frames and the input of the side branch."""
