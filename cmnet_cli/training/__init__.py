"""Training data of a manifest, and the training log."""
