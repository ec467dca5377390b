"""Where market evidence comes from: recorded files and the synthetic market."""
