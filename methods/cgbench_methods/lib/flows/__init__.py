"""Normalizing flows on the transform interface of nflows: rational-quadratic splines, also circular, and their
kernels.
"""
