"""The world inside a TorchServe worker; bundled whole into every archive.

Imports here are absolute and never reach outside the archive, so that a file works from the checkout and from
inside an archive alike.
"""
