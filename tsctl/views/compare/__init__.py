"""Views of a comparison of engines: tables, plots, and one HTML file."""
