"""Running a stage over a cohort: which cases are left to do, the attempts, and the summary."""
