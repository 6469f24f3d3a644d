"""What people and plain clients use: a file in place of a tensor, its verdict in one answer, and a page."""
