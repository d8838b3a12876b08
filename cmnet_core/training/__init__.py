"""Training in two stages: SegNet on reference masks, then CardioMorphNet on segmentations and on simulated cines."""
