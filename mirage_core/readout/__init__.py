"""Reading the memory for new cameras."""
