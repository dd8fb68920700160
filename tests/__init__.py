"""Tests, by what they need: unit nothing, js Node, server gunicorn, browser Chromium."""
