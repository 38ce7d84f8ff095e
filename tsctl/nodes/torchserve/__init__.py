"""The engine TorchServe: its process on this machine, its clients, and changes of its versions."""
