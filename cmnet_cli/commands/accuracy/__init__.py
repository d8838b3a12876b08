"""Commands that compare results with reference masks: evaluate for one method, benchmark for several."""
