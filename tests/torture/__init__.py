"""A day of torture as a command: what is tried, what held, and the command for each failure."""
