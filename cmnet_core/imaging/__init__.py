"""From a subject's own voxel grid to the network's window and back, and random variation of images for training."""
