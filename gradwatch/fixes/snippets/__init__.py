"""Snippets: the text of the programs that fixes hand to the user."""
