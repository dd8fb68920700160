"""What happens before the first request, or beside it: work done once, and parts of an app that load late."""
