"""The commands of array jobs: submit them, run one of their tasks, merge the tables that the tasks wrote."""
