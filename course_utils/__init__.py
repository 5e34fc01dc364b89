"""The package that the course's notebooks share. Importing it imports nothing: each module is imported by its name."""
