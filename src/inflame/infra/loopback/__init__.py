"""Control planes on this machine: each speaks as its provider does on the wire, and really runs the job."""
