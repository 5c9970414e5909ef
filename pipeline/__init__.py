"""Images on disk to batches on a device: DALI and numpy, no networks, no ranks."""
