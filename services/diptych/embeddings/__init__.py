"""Embeddings by content: what names one, what it holds, and where it is kept."""
