"""The networks: SegNet, ShapeMotionNet, RotationNet and CardioMorphNet, their layers, sizes, losses and checkpoints."""
