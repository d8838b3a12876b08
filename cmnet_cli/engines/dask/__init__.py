"""The Dask engine: clusters and connections, the code of a worker, and the map over cases."""
