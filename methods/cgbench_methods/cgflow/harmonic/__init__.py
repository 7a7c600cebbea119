"""Our own recipe: harmonic minima start the flow, path gradients train it, every sample counts towards the PMF."""
