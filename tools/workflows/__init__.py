"""The shipped graphs."""
