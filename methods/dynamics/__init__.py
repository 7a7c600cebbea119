"""What simulation methods share: integrators for batches of walkers, and biases on collective variables."""
