"""Engines map a stage over cases: serially in this process, or on Dask workers with CPUs or GPUs."""
