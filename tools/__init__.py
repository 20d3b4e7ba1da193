"""Command-line programs for people who work on the pack."""
