"""What enters the memory: policy, novelty, consistency."""
