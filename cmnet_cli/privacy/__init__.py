"""Privacy: pseudonyms, redaction of ids, and suppression of small counts."""
