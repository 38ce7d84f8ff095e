"""How close few trials of `tsctl tune` come to the best of an exhaustive grid."""
