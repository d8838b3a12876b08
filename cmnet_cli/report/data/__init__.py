"""What the report shows: results of a run folder as records and columns."""
