"""The package that the notebooks share."""
