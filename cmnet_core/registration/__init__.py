"""Displacement and velocity fields: warping, composition, exponential, inversion, Jacobian."""
