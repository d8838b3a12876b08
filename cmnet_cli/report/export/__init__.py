"""The report in other forms: figure files, animations, PDF, and text on a terminal."""
