"""Declaration of every column of every table: meaning, unit, formula, source. The schema module assembles them."""
