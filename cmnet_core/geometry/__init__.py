"""Geometry of the left ventricle: long axis, local coordinates, AHA segments, wall thickness."""
