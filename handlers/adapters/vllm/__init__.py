"""vLLM's own server as what answers one version: started, supervised, and made to speak as our workers do."""
