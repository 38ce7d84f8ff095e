"""Whether inputs and predictions have moved since the reference: references, tests of a window, detectors. Pure."""
