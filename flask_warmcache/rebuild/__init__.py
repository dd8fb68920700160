"""How a list is renewed, by a rebuild or by a write; nothing in this room imports Flask."""
