"""Names what pictures show, with a trained network."""
