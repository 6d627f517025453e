"""Tables, figures, pages and cards made from result files."""
