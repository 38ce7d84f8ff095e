"""Workers forked from a process that has imported torch already.

The import takes far more processor time than most models need to load, and each worker that does it has a copy of what
it makes. A *fork server* (server.py) imports torch once; each worker of the node is a copy of it that shares its memory
until it writes there. client.py asks for a worker; launcher.py is the program that a server which starts its workers by
a command, as TorchServe does, runs in a worker's place. Where a worker could tell the difference (surroundings.py), or
there is no fork server, it starts as before.

Standard library only, but for the server; importing a module does no work. The server is Linux's.
"""
