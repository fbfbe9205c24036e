"""Arrays and results in, plotly figures, PNG and HTML out. Knows no models and no page."""
