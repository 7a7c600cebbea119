"""Reference points: harmonic minima, wells of free torsions, the placement of new points, and their search."""
