"""A package, because a part and its lab have test files of the same name."""
