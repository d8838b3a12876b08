"""What each command does: read, plan, map, write the tables, say how it went."""
