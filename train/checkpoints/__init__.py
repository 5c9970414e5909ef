"""Checkpoints: what a run writes to go on from, and the folder that holds them."""
