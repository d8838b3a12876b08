"""Training in stages: SegNet first; then the shape motion network in four stages, or CardioMorphNet in one."""
