"""What users run: the command line and the quick start."""
