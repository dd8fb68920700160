"""An app like those whose workers died at start: 7 blueprints that login needs, and 62 that are slow to import."""
