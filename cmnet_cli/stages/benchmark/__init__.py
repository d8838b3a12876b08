"""The stages of a benchmark: the motion of a case by one method with its cost, and the evaluation of all methods."""
