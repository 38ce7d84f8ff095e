"""Measures one archive on several engines, side by side on this machine, and says which one to take."""
