"""What every measurement uses: load, processes, figures, and the run that prints and stores them."""
