"""What a view may ask of a list or a value."""
