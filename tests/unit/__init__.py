"""Tests that need no server, but use real files, real threads and a few processes."""
