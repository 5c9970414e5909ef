"""Break real runs, and see what is lost."""
