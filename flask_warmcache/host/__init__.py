"""Where this process runs, and what it may use."""
