"""Which class an image is of: label files, development kits, names of classes."""
