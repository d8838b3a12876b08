"""Simulated label maps in closed form: ED and a later frame as readers contour them, with the exact motion between."""
