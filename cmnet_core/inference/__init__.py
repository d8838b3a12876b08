"""One subject through trained networks: segmentation, motion tracking, and composition of the motion over the cycle."""
