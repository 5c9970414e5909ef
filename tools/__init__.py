"""One command a file, thin over pipeline, model and train."""
