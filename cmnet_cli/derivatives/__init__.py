"""Stored results of one subject: written by infer, read by indices, evaluate and report."""
