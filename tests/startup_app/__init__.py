"""An app like those whose workers were killed at start: login needs 7 blueprints, and 62 others import slowly."""
