"""Starts, stops and reads one TorchServe node on this machine."""
