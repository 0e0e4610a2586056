"""After deployment: what was answered, whether the world has moved on, and how good the answers still are. No torch."""
