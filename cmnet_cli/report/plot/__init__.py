"""Plots of the report: values in, SVG out.

``svg`` holds axes and elements, ``figures`` and ``cohort_figures`` whole figures, ``bullseye`` the AHA plot and
``colours`` the colour scale.
"""
