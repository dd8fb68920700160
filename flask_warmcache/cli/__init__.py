"""The commands of the flask command line."""
