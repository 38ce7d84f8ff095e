"""The world inside a worker; bundled whole into every archive.

Imports here are absolute and never reach outside the archive, so that a file works from the checkout and from inside an
archive alike. Importing this package loads nothing heavy: tsctl imports `handlers.contract`.
"""
