"""The networks: layers, the model of the method, and the one place that knows sizes."""
