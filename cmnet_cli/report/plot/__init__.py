"""Plots of the report: values in, SVG out."""
