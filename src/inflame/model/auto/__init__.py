"""The ladder: the best classifier for any data set in the time that is given."""
