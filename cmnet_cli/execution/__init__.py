"""Running a stage over a cohort: the plan, the stages built from settings, the attempts, their log and the summary."""
