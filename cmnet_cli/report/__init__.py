"""The report: one page for the cohort and one for each subject."""
