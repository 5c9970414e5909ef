"""Weights that others have trained, of networks of the paper's form, as runs of this project."""
