"""A run in one page of HTML."""
