"""SLURM array jobs: batch scripts, submissions, shards of the cohort, states of the tasks."""
