"""Training of the side branch, and the data that feeds it."""
