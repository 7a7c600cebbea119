"""Systems: Boltzmann densities with their collective variables, coordinates and references."""
