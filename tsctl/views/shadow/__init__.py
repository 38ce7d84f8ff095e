"""Views of a shadow comparison: tables, plots, and one HTML file."""
