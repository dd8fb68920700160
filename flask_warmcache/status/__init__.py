"""What state a list is in."""
