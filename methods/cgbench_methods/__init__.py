"""Methods that compute the potential of mean force, and what they share."""
