"""What tests share and no test is: sites, gateways, load, attacks, payloads, fakes, recorders and real servers.

Tests import from here, and never from each other. Load clients, processes and fleets that benchmarks need too stand
once, in `benchmarks`: this package imports them, and benchmarks import nothing of the tests.
"""
