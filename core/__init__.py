"""The words and contracts of the daemon: types only, no decisions and no I/O."""
