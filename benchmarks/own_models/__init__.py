"""Ten models that nobody made for tsctl: from a file to an answer through the gateway, and through a rollout."""
