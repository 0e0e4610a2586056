"""Many runs: planned, stopped early, compared honestly and understood. This room sends jobs through `infra` and reads
run folders; it knows no net and no data set."""
