"""The networks: layers, SegNet, CardioMorphNet and its losses, their sizes, and the checkpoints that store them."""
