"""Setting up, running and testing."""
