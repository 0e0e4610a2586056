"""Where the trials of a sweep run: warm processes of this machine or of the nodes of a Ray cluster."""
