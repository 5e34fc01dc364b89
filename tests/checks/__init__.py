"""A package, because a lesson's lab has a test file of the same name."""
