"""What runs with no download: a weight-free codec and procedural scenes with exact geometry."""
