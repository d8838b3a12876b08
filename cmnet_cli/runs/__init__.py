"""The run folder: paths of all files, provenance of results, the lock, opening a run."""
