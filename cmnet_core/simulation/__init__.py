"""Simulated cines: a real ED image that is warped along a known motion, with its ground truth."""
