"""TorchServe: its calls, its context and its wire format; nothing else in `handlers` knows them."""
