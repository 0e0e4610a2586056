"""How the tables of the log came to be: Alembic's folder. A change of them is a further file in `versions`."""
