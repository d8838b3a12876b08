"""One file a stage: load a case, run the science, save what came out."""
