"""The revisions of the tables, in order. One that was released isn't changed any more."""
