"""From requests to the bytes of a batch: files read ahead, checked, replaced where bad."""
