"""The page of a comparison: its figures, charts, Markdown and HTML."""
