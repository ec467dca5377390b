"""What runs the daemon: step, loop, clock, workers and sub-commands."""
