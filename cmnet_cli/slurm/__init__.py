"""SLURM array jobs: batch scripts, submissions, shards of the cohort, state of the tasks."""
