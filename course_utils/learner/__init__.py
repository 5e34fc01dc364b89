"""The learner's own side of the course: their record, their guesses, their machine, and hints for missing names."""
