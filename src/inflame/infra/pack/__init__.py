"""What travels to a machine: the code, inflame itself as a wheel, the list of requirements; no secrets."""
