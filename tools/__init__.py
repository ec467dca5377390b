"""Programs for those who work on the daemon; nothing here runs with it."""
