"""Camera moves: presets, keyframes, files."""
