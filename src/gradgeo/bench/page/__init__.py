"""The page of the benchmark: its figures, charts, Markdown and HTML."""
