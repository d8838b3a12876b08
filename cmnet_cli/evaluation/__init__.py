"""Evaluation against reference masks: summaries over subjects, and their presentation."""
