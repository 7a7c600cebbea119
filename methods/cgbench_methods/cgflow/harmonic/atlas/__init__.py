"""The reference points: harmonic minima, where new ones are placed, and the search for them."""
