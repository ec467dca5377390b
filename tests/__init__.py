"""The tests of the grid daemon."""
