"""Training in two stages, as plain loops: SegNet on masks, then CardioMorphNet on the shapes that follow from them."""
