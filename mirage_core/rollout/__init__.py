"""The chunk loop: plan, state, saving and resuming."""
