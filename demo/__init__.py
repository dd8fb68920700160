"""A comic library: the app that shows what flask-warmcache is for."""
