"""Text generation: what any backend of a language model needs around it; no server and no backend is known here."""
