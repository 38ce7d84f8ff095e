"""The servers that users would write instead: each as its own documentation writes it, around the same model code."""
