"""The steps, in Alembic's form; never edited once released."""
