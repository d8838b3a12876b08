"""Mechanics of the myocardium: Lagrangian motion, deformation gradient, strain, rotation, strain curves."""
