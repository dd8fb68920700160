"""How a query becomes an answer."""
