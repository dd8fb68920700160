"""The files of the cache folder; nothing here knows Flask or how a rebuild works."""
