"""The commands that train: of single networks, and by the recipes of all shipped weights."""
