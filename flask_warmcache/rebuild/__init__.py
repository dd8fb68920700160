"""How a list becomes warm; nothing in here knows Flask."""
