"""How ground truths of molecules are made and checked: independent routes to the same PMF."""
