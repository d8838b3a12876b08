"""Ventricular function: volumes, ejection fraction, mass, and published reference ranges."""
