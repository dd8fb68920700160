"""Where snapshots live; nothing in here knows Flask or how a rebuild works."""
