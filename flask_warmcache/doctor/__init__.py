"""``flask warmcache doctor``: what is wrong with how this app is run, why it matters, and what to do."""
