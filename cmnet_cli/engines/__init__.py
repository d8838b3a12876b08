"""Engines that map a stage over cases: serial or on Dask, on CPUs or GPUs."""
