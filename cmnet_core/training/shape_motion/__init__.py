"""Training of the shape motion network in four stages: through-plane, rotation, residual motion, posterior."""
