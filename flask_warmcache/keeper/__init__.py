"""When a rebuild runs, where, and which process holds the lock."""
