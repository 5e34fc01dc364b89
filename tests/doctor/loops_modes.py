"""Loops that evaluate in train mode or let frozen batch norm learn, and loops that look like them."""
