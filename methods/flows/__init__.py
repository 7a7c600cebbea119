"""What flow methods share: spline couplings on tori behind nflows' interfaces, conditional flows."""
