"""What a run records of itself: metrics, pictures, layers, times, bad images."""
