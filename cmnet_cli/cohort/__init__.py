"""The subjects of a cohort: manifests, cases, data sets on disk, demographics."""
