"""Reading and writing of image files; the only place where axes are reordered."""
