"""Batch work: files, cohorts, tables, the report and the command line."""
