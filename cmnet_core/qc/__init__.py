"""Quality control: flags, checks of images, and plausibility of results."""
