"""Code of your own: projects that are made, written out from a run, and brought up to date."""
