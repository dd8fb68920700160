"""What happens before the first request, or instead of it: one-time tasks, parts that load later."""
