"""Simulated cines: a real ED image warped along a known motion, with its ground truth."""
