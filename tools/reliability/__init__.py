"""Programs that try to break the readers of files."""
