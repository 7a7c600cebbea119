"""Normalizing flows on nflows' transform interface: rational-quadratic splines on intervals and circles."""
