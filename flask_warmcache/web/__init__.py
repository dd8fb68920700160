"""What is served over HTTP besides the lists."""
