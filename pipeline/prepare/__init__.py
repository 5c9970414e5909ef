"""From folders and archives of images to a prepared folder."""
