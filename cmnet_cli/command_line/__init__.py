"""The commands as a user sees them, with their options: one module for each part of the help page."""
