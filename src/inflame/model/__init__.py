"""Train and infer: `engine` is the loop, each other folder is one model."""
