"""What servers answer to clients of the Open Inference Protocol, for the same model and the same requests."""
