"""What all-atom systems share: batched force field, OpenMM engine, internal coordinates, chirality."""
