"""Where the trials of a sweep run: warm processes of this machine or of a Ray cluster's nodes, or jobs of any place."""
