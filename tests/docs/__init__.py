"""The documentation: its examples run, and its tables are those of the code."""
