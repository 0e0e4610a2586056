"""The loop and what stands around it: learner, devices, hooks, checkpoints, reports, bundles."""
