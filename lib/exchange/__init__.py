"""Plans outside this project: as a file, and as hooks for other tools, none of which is imported here."""
