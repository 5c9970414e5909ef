"""Takes trained networks to other programs."""
