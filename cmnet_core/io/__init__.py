"""Files to records and back: the only axis reordering in the project."""
