"""Ranks: who holds what, what they say to each other, and who watches."""
