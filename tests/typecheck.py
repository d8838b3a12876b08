"""How shapes and types are checked while tests run."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Beartype that takes an int for a float, as the language does."""
