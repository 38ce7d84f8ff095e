"""Archives as TorchServe users make them without tsctl, to compare with."""
