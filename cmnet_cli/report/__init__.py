"""The pages that people open first."""
