"""What the lessons' experiments compute: data in, data out, no widgets."""
