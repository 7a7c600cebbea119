"""One module for each figure, and the panels that several figures share."""
