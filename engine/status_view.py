"""The status as a pure function of state, parameters and what the shell knows besides.

Numbers are rounded here for reading; the lines of the equity change are not, so that they add up
exactly. Nothing here decides, reads a clock or waits. The contract is `core/status.py`; the views
of slots and legs are in `engine/slot_view.py`.
"""
