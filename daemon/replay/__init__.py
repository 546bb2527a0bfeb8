"""A session again, from its record: the same decisions, other choices, or the loop closed on a simulator of it."""
