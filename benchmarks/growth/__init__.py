"""How cost, memory and times grow with nodes, connections, versions, batches and keys: a module for each axis."""
